//! What operators do, and what becomes of revocations.

use super::super::ConvertError;
use super::fields::{Fields, Value};

/// What became of a revocation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RevocationAct {
    /// `namespace/name` of its document.
    pub name: String,
    /// SHA-256 of the document.
    pub document_sha256: [u8; 32],
    /// `deny_new`, `drain`, `cut`; empty where the document is gone.
    pub action: String,
    /// Why, as the document says; empty where it is gone.
    pub reason: String,
    /// When it ends by itself, in Unix milliseconds; 0 for never.
    pub expires_ms: u64,
    /// `new`, `changed`, `removed`, `expired`.
    pub how: String,
    /// Whose act it was.
    pub actor: String,
    /// Why he did it, in his words; empty where he said nothing.
    pub why: String,
}

/// What an operator did by the command line, with what was known of its consequences when it was made: a revocation without
/// a limit is made before sidecars answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OperatorAct {
    /// `revoke`, `end_revocation`, `apply`, `rollback`, `prepare_authority`; of a canary `canary 10%`, `promote`, `canary_ended`.
    pub act: String,
    /// Who, as the operator socket knows him.
    pub actor: String,
    /// Why, in his words.
    pub reason: String,
    /// Files of the policy folder that it writes or removes.
    pub files: Vec<String>,
    /// Connections that sidecars said would end.
    pub would_drop: u64,
    /// Of so many live ones.
    pub live: u64,
    /// Sidecars that had not said.
    pub unanswered: u64,
    /// What he allowed to end, as he wrote it.
    pub max_drop: String,
}

impl RevocationAct {
    pub(super) fn fields(&self) -> Vec<(&'static str, Value<'_>)> {
        vec![
            ("name", Value::Text(&self.name)),
            ("document_sha256", Value::Bytes(&self.document_sha256)),
            ("action", Value::Text(&self.action)),
            ("reason", Value::Text(&self.reason)),
            ("expires", Value::Number(self.expires_ms)),
            ("how", Value::Text(&self.how)),
            ("actor", Value::Text(&self.actor)),
            ("why", Value::Text(&self.why)),
        ]
    }
}

impl OperatorAct {
    pub(super) fn fields(&self) -> Vec<(&'static str, Value<'_>)> {
        let mut fields = vec![
            ("act", Value::Text(&self.act)),
            ("actor", Value::Text(&self.actor)),
            ("reason", Value::Text(&self.reason)),
        ];
        let files = self.files.iter().map(String::as_str);
        fields.extend(files.map(|file| ("files", Value::Entry(file))));
        fields.push(("would_drop", Value::Number(self.would_drop)));
        fields.push(("live", Value::Number(self.live)));
        fields.push(("unanswered", Value::Number(self.unanswered)));
        fields.push(("max_drop", Value::Text(&self.max_drop)));
        fields
    }
}

impl Fields<'_> {
    pub(super) fn revocation(&mut self) -> Result<RevocationAct, ConvertError> {
        Ok(RevocationAct {
            name: self.text("name")?,
            document_sha256: self.array("document_sha256")?,
            action: self.text("action")?,
            reason: self.text("reason")?,
            expires_ms: self.number("expires")?,
            how: self.text("how")?,
            actor: self.text("actor")?,
            why: self.text("why")?,
        })
    }

    pub(super) fn operator_act(&mut self) -> Result<OperatorAct, ConvertError> {
        Ok(OperatorAct {
            act: self.text("act")?,
            actor: self.text("actor")?,
            reason: self.text("reason")?,
            files: self.entries("files")?,
            would_drop: self.number("would_drop")?,
            live: self.number("live")?,
            unanswered: self.number("unanswered")?,
            max_drop: self.text("max_drop")?,
        })
    }
}
