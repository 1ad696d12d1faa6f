//! The policy of the simulated mesh, and the changes to it.

use std::fmt::Write as _;

/// A sort of change.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Change {
    /// Of nobody: what it costs to tell everybody.
    Revocation,
    /// Of one of the sidecars, by the serial number of its certificate.
    RevocationOfOne,
    RuleForAll,
    RuleForTwo,
    MeshSetting,
    TrustBundle,
    /// So many rules, all of which one sidecar gets.
    RulesAtOneDoor(usize),
    /// So many rules, spread over all sidecars.
    RulesEverywhere(usize),
}

impl Change {
    pub(crate) fn all(rules: usize) -> Vec<Self> {
        let mut all = vec![
            Self::Revocation,
            Self::RevocationOfOne,
            Self::RuleForAll,
            Self::RuleForTwo,
            Self::MeshSetting,
            Self::TrustBundle,
        ];
        if rules > 0 {
            all.extend([Self::RulesAtOneDoor(rules), Self::RulesEverywhere(rules)]);
        }
        all
    }

    /// The row in the report.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Revocation => "revocation",
            Self::RevocationOfOne => "revocation_of_one",
            Self::RuleForAll => "rule_for_all",
            Self::RuleForTwo => "rule_for_two",
            Self::MeshSetting => "mesh_setting",
            Self::TrustBundle => "trust_bundle",
            Self::RulesAtOneDoor(_) => "rules_at_one_door",
            Self::RulesEverywhere(_) => "rules_everywhere",
        }
    }
}

/// Documents, in one text.
pub(crate) struct Policy {
    sidecars: usize,
    rules: usize,
    base: String,
    /// Rules that open the doors.
    doors: String,
    extra: String,
}

impl Policy {
    /// `sidecars` workloads, each of which may call the next; `doors` workloads that `fleet/caller` may call; and
    /// `more` rules for a workload without a sidecar.
    pub(crate) fn new(sidecars: usize, doors: usize, more: usize) -> Self {
        let mut policy = Self {
            sidecars,
            rules: 0,
            base: String::new(),
            doors: String::new(),
            extra: String::new(),
        };
        policy.document(
            "Mesh",
            "{name: simulation}",
            "{trust_domain: simulation.example, danger_accept_simulated: true}",
        );
        policy.document(
            "AttestationProfile",
            "{name: any, namespace: fleet}",
            "{any_of: [{simulated: {images: [{name: sim}]}}]}",
        );
        for number in 0..sidecars {
            policy.workload(&sidecar(number));
        }
        for number in 0..doors {
            policy.workload(&door(number));
        }
        policy.workload("caller");
        policy.workload("nobody");
        for number in 1..sidecars {
            policy.rule(
                &format!("next-{number}"),
                &sidecar(number - 1),
                &sidecar(number),
            );
        }
        let before = policy.base.len();
        for number in 0..doors {
            policy.rule(&format!("door-{number}"), "caller", &door(number));
        }
        policy.doors = policy.base.split_off(before);
        for number in 0..more {
            policy.rule(&format!("more-{number}"), "nobody", "nobody");
        }
        policy
    }

    pub(crate) fn sidecars(&self) -> usize {
        self.sidecars
    }

    pub(crate) fn rules(&self) -> usize {
        self.rules
    }

    pub(crate) fn text(&self) -> String {
        format!("{}{}{}", self.base, self.doors, self.extra)
    }

    /// The policy after a change of a sort; each round makes another one.
    pub(crate) fn change(&mut self, what: Change, round: usize) -> String {
        let last = sidecar(self.sidecars.saturating_sub(1));
        let all = self.sidecars.max(1);
        // From workloads without a sidecar, so that each rule concerns the sidecar of its door.
        let rule = |name: &str, door: usize, from: &str| {
            document(
                "AccessPolicy",
                &format!("{{name: {name}, namespace: fleet}}"),
                &format!(
                    "{{to: {{workload: {}, port: p}}, from: [{from}]}}",
                    sidecar(door)
                ),
            )
        };
        self.extra = match what {
            Change::Revocation => revocation(&format!("{:02x}", round + 1)),
            // Whose it is only the control plane knows: `revoke_serial`.
            Change::RevocationOfOne => String::new(),
            Change::RuleForAll => rule("all", round % all, "{namespace: fleet}"),
            Change::RuleForTwo => rule(
                &format!("two-{round}"),
                0,
                &format!("{{workload: fleet/{last}}}"),
            ),
            Change::RulesAtOneDoor(rules) => (0..rules)
                .map(|number| rule(&format!("r-{round}-{number}"), 0, NOBODY))
                .collect(),
            Change::RulesEverywhere(rules) => (0..rules)
                .map(|number| rule(&format!("r-{round}-{number}"), number % all, NOBODY))
                .collect(),
            Change::MeshSetting | Change::TrustBundle => String::new(),
        };
        if what == Change::MeshSetting {
            let hours = 2 + round % 20;
            let setting = format!(", certificates: {{lifetime: {hours}h}}");
            return self.text().replacen(
                "danger_accept_simulated: true",
                &format!("danger_accept_simulated: true{setting}"),
                1,
            );
        }
        self.text()
    }

    /// Sidecars whose slice a change touches; `None`: all.
    pub(crate) fn concerned(&self, what: Change, round: usize) -> Option<Vec<usize>> {
        match what {
            Change::RuleForTwo => Some(vec![0, self.sidecars.saturating_sub(1)]),
            Change::RulesAtOneDoor(_) => Some(vec![0]),
            Change::RulesEverywhere(rules) => Some((0..self.sidecars.min(rules)).collect()),
            // Whom it means follows nothing any more.
            Change::RevocationOfOne => Some(
                (0..self.sidecars)
                    .filter(|one| *one != self.revoked(round))
                    .collect(),
            ),
            Change::Revocation | Change::RuleForAll | Change::MeshSetting | Change::TrustBundle => {
                None
            }
        }
    }

    /// The sidecar that a round revokes.
    pub(crate) fn revoked(&self, round: usize) -> usize {
        (round + 1) * 7 % self.sidecars.max(1)
    }

    /// The policy with a revocation of a certificate.
    pub(crate) fn revoke_serial(&mut self, serial: &str) -> String {
        self.extra = revocation(serial);
        self.text()
    }

    /// The policy without what a change added.
    pub(crate) fn plain(&mut self) -> String {
        self.extra.clear();
        self.text()
    }

    /// A policy that cuts off whoever opens the doors.
    pub(crate) fn revoke_caller(&self) -> String {
        let revocation = document(
            "Revocation",
            "{name: caller, namespace: fleet}",
            "{match: {workload: [fleet/caller]}, action: cut, reason: simulation}",
        );
        format!("{}{revocation}", self.text())
    }

    /// A policy without the rules that open the doors, and with one more that each of the sidecars gets.
    pub(crate) fn shut_doors(&mut self, round: usize) -> String {
        let all = self.change(Change::RuleForAll, round);
        all.replacen(&self.doors, "", 1)
    }

    /// The policy with one more image in the profile of all.
    pub(crate) fn other_profile(&mut self) -> String {
        self.plain()
            .replacen("[{name: sim}]", "[{name: sim}, {name: another}]", 1)
    }

    fn workload(&mut self, name: &str) {
        self.document(
            "Node",
            &format!("{{name: {name}, namespace: fleet}}"),
            &format!("{{hardware: {{simulated_machine: {name}}}}}"),
        );
        self.document(
            "Workload",
            &format!("{{name: {name}, namespace: fleet}}"),
            &format!(
                "{{profile: any, members: {{nodes: [{name}]}}, ports: [{{name: p, port: 1, protocol: tcp}}]}}"
            ),
        );
    }

    fn rule(&mut self, name: &str, from: &str, to: &str) {
        self.rules += 1;
        self.document(
            "AccessPolicy",
            &format!("{{name: {name}, namespace: fleet}}"),
            &format!("{{to: {{workload: {to}, port: p}}, from: [{{workload: fleet/{from}}}]}}"),
        );
    }

    fn document(&mut self, kind: &str, metadata: &str, spec: &str) {
        self.base.push_str(&document(kind, metadata, spec));
    }
}

fn revocation(serial: &str) -> String {
    document(
        "Revocation",
        "{name: gone, namespace: fleet}",
        &format!("{{match: {{serial: [\"{serial}\"]}}, action: cut, reason: simulation}}"),
    )
}

/// A workload without a sidecar.
const NOBODY: &str = "{workload: fleet/nobody}";

/// Name of a sidecar's workload and of its machine.
pub(crate) fn sidecar(number: usize) -> String {
    format!("s-{number}")
}

/// The same of one that carries connections.
pub(crate) fn door(number: usize) -> String {
    format!("door-{number}")
}

fn document(kind: &str, metadata: &str, spec: &str) -> String {
    let mut text = String::new();
    // A string always takes more.
    let _ = write!(
        text,
        "---\napiVersion: vouchsafe.dev/v1alpha1\nkind: {kind}\nmetadata: {metadata}\nspec: {spec}\n"
    );
    text
}
