//! How old the endorsements are that a judgement rests on.
//!
//! An auditor asks what was believed and how fresh it was. [`used`] leaves out what the judgement does not need, and says
//! of the rest what each file holds, since when and until when, by its own dates. Nothing is verified here: the judgement
//! did that, and a file that it refused is among those that it needs, since without it the judgement would be another.
//!
//! Certificates inside evidence itself (a quote's chain, an enclave's document) are listed with the evidence's file.
//!
//! Source: RFC 5280 §4.1.2.5 and §5.1.2; RFC 6960 §4.2.2.1; Intel SGX and TDX PCS API v4.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::object::{Validity, time};
use crate::dossier::content::Contents;
use crate::dossier::{Dossier, File, nvidia_gpu};
use crate::evidence::dcap::collateral::timestamp;
use crate::evidence::dcap::quote::Quote;
use crate::evidence::nitro::Document;
use crate::evidence::nvidia_gpu::rim::Rim;
use crate::evidence::x509::{self, Dates};
use crate::ocsp::Response;

/// Something that a vendor signed, with the dates that it states.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Dated {
    /// The file that holds it.
    pub file: String,
    /// What it is, for people.
    pub what: String,
    from: i64,
    until: Option<i64>,
}

/// Where an endorsement stands in time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// It holds.
    Valid,
    /// It will hold later.
    NotYetValid,
    /// It held once.
    Expired,
}

impl State {
    /// A bounded word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::NotYetValid => "not_yet_valid",
            Self::Expired => "expired",
        }
    }
}

impl Dated {
    /// When it was issued, or its certificate began.
    pub fn issued(&self) -> SystemTime {
        time(self.from)
    }

    /// The last moment at which it is valid; `None` for what states no end.
    pub fn until(&self) -> Option<SystemTime> {
        self.until.map(time)
    }

    /// How old it was then; zero before it was issued.
    pub fn age(&self, at: SystemTime) -> Duration {
        at.duration_since(self.issued()).unwrap_or_default()
    }

    /// Where it stood then.
    pub fn state(&self, at: SystemTime) -> State {
        match x509::dates(at, self.from, self.until) {
            Dates::Valid => State::Valid,
            Dates::NotYet => State::NotYetValid,
            Dates::Expired => State::Expired,
        }
    }
}

/// What a judgement rests on: the endorsements of a smallest set of files that is judged the same.
///
/// `judge` is called about twice for each file that is needed, and less for others. Of two files that say the same, one
/// is needed, rather the one that came with the evidence.
pub fn used<J: Eq>(dossier: Dossier<'_>, judge: impl Fn(Dossier<'_>) -> J) -> Vec<Dated> {
    let whole = judge(dossier);
    let mut search = Search {
        dossier,
        is_same: |dossier: Dossier<'_>| judge(dossier) == whole,
        left_out: Vec::new(),
    };
    let is_dated = |file: &File<'_>| !dated(file).is_empty();
    let cached = dossier.endorsements.iter().enumerate();
    let given = dossier.files.iter().enumerate();
    let candidates: Vec<Place> = { cached.filter(|(_, file)| is_dated(file)) }
        .map(|(number, _)| Place::Cached(number))
        .chain(
            given
                .filter(|(_, file)| is_dated(file))
                .map(|(number, _)| Place::Given(number)),
        )
        .collect();
    search.leave_out(&candidates);
    let (files, endorsements) = search.without(&[]);
    files.iter().chain(&endorsements).flat_map(dated).collect()
}

/// The first moment at which something that vendors signed in these files is over, of that which holds now: nothing that
/// rests on them may last longer. A file may bring along more than is needed; that it ends counts all the same.
pub fn first_end(files: &[File<'_>], now: SystemTime) -> Option<SystemTime> {
    let all = files.iter().flat_map(dated);
    let held = all.filter(|one| one.state(now) == State::Valid);
    held.filter_map(|one| one.until()).min()
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Place {
    Given(usize),
    Cached(usize),
}

struct Search<'a, F> {
    dossier: Dossier<'a>,
    is_same: F,
    left_out: Vec<Place>,
}

impl<'a, F: Fn(Dossier<'_>) -> bool> Search<'a, F> {
    /// Leaves out all of these that can be, in halves: a cache has much that this evidence does not need.
    fn leave_out(&mut self, candidates: &[Place]) {
        let (files, endorsements) = self.without(candidates);
        let rest = Dossier {
            files: &files,
            endorsements: &endorsements,
        };
        if candidates.is_empty() {
            return;
        }
        if (self.is_same)(rest) {
            self.left_out.extend(candidates);
        } else if candidates.len() > 1 {
            let (first, second) = candidates.split_at(candidates.len() / 2);
            self.leave_out(first);
            self.leave_out(second);
        }
    }

    /// The files in their roles, without what was left out already and these.
    fn without(&self, more: &[Place]) -> (Vec<File<'a>>, Vec<File<'a>>) {
        let kept = |files: &[File<'a>], place: fn(usize) -> Place| {
            let files = files.iter().copied().enumerate();
            files
                .filter(|(number, _)| {
                    let place = place(*number);
                    !self.left_out.contains(&place) && !more.contains(&place)
                })
                .map(|(_, file)| file)
                .collect()
        };
        (
            kept(self.dossier.files, Place::Given),
            kept(self.dossier.endorsements, Place::Cached),
        )
    }
}

/// What vendors signed in a file.
fn dated(file: &File<'_>) -> Vec<Dated> {
    let mut found = Found {
        file: file.name,
        dated: Vec::new(),
    };
    if Rim::is_likely(file.bytes) {
        found.manifest(file.bytes);
    } else if let Some(der) = nvidia_gpu::response(file) {
        found.response(&der);
    } else {
        found.contents(&Contents::of([*file].into_iter()));
    }
    found.dated
}

struct Found<'a> {
    file: &'a str,
    dated: Vec<Dated>,
}

impl Found<'_> {
    fn push(&mut self, what: String, from: i64, until: Option<i64>) {
        let found = Dated {
            file: self.file.to_owned(),
            what,
            from,
            until,
        };
        if !self.dated.contains(&found) {
            self.dated.push(found);
        }
    }

    fn contents(&mut self, contents: &Contents) {
        for der in &contents.certificates {
            self.certificate(der);
        }
        for der in &contents.crls {
            if let Ok(crl) = x509::parse_crl(der) {
                let issuer = x509::common_name(crl.issuer()).unwrap_or_default();
                let until = crl.next_update().map(|until| until.timestamp());
                let what = format!("revocation list of `{issuer}`");
                self.push(what, crl.last_update().timestamp(), until);
            }
        }
        for (_, document) in &contents.documents {
            self.statements(document);
        }
        let unread = contents.unread().map(|(_, bytes)| bytes);
        for bytes in unread.chain(contents.blobs.iter().map(Vec::as_slice)) {
            self.inside_evidence(bytes);
        }
    }

    fn certificate(&mut self, der: &[u8]) {
        if let Ok(parsed) = x509::parse(der) {
            let name = x509::common_name(parsed.subject()).unwrap_or_default();
            let validity = parsed.validity();
            self.push(
                format!("certificate `{name}`"),
                validity.not_before.timestamp(),
                Some(validity.not_after.timestamp()),
            );
        }
    }

    /// Intel's signed statements: objects with both dates, wherever services put them.
    fn statements(&mut self, value: &Value) {
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        if let (Some(from), Some(until)) = (
            text("issueDate").and_then(timestamp),
            text("nextUpdate").and_then(timestamp),
        ) {
            let what = match text("fmspc") {
                Some(fmspc) => format!("TCB info of FMSPC {}", fmspc.to_ascii_lowercase()),
                None => format!("identity of `{}`", text("id").unwrap_or_default()),
            };
            self.push(what, from, Some(until));
            return;
        }
        match value {
            Value::Array(items) => items.iter().for_each(|item| self.statements(item)),
            Value::Object(members) => members.values().for_each(|item| self.statements(item)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    /// Chains that evidence brings along.
    fn inside_evidence(&mut self, bytes: &[u8]) {
        if let Ok(quote) = Quote::parse(bytes) {
            for der in x509::certificates(quote.pck_chain).unwrap_or_default() {
                self.certificate(&der);
            }
        } else if let Ok(document) = Document::parse(bytes) {
            for der in document.certificates() {
                self.certificate(der);
            }
        }
    }

    fn manifest(&mut self, document: &[u8]) {
        let Ok(rim) = Rim::parse(document) else {
            return;
        };
        let chain = rim.certificates();
        let path: Result<Vec<_>, _> = chain.iter().map(|der| x509::parse(der)).collect();
        if let Ok(path) = path
            && !path.is_empty()
        {
            let Validity { from, until, .. } = Validity::of_path(&path);
            let what = format!("manifest of {} version {}", rim.product, rim.version);
            self.push(what, from, Some(until));
        }
    }

    fn response(&mut self, der: &[u8]) {
        let Ok(response) = Response::parse(der) else {
            return;
        };
        for (serial, from, until) in response.stated() {
            let what = format!("OCSP answer about certificate {}", hex::encode(serial));
            self.push(what, x509::seconds(from), Some(x509::seconds(until)));
        }
    }
}

#[cfg(test)]
mod tests;
