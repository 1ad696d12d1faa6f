//! Conditions on claims: what policy and profiles demand of a claim, compared by the claim's type.

use crate::claims::{ClaimValue, Claims};

/// One claim and what it may be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Condition {
    /// Name of the claim, from the catalog.
    pub claim: &'static str,
    /// Alternatives: one of them must hold.
    pub any_of: Vec<Comparison>,
}

/// One comparison.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Comparison {
    /// How.
    pub operator: Operator,
    /// With what; of the claim's type, a `Text` for a set.
    pub value: ClaimValue,
}

/// How a claim compares.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Operator {
    /// Equal; for a set: contains.
    Equal,
    /// `>=`.
    AtLeast,
    /// `<=`.
    AtMost,
    /// `>`.
    MoreThan,
    /// `<`.
    LessThan,
}

impl Operator {
    /// As it is written; nothing for equality.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "",
            Self::AtLeast => ">=",
            Self::AtMost => "<=",
            Self::MoreThan => ">",
            Self::LessThan => "<",
        }
    }

    fn holds(self, ordering: std::cmp::Ordering) -> bool {
        match self {
            Self::Equal => ordering.is_eq(),
            Self::AtLeast => ordering.is_ge(),
            Self::AtMost => ordering.is_le(),
            Self::MoreThan => ordering.is_gt(),
            Self::LessThan => ordering.is_lt(),
        }
    }
}

impl Condition {
    /// Whether a claim's value satisfies it; a claim that is not there does not.
    pub fn holds(&self, found: Option<&ClaimValue>) -> bool {
        found.is_some_and(|found| self.any_of.iter().any(|wanted| wanted.holds(found)))
    }

    /// Whether it speaks of a device with these claims at all: what only GPUs of NVIDIA's prove binds no switch beside
    /// them. Whoever skips a device for this must see that another one is bound, or the condition demands nothing.
    pub fn concerns(&self, claims: &Claims) -> bool {
        let is_switch = || match claims.get("device") {
            Some(ClaimValue::Text(device)) => device == "switch",
            Some(_) | None => false,
        };
        claims.get(self.claim).is_some() || !(OF_GPUS_ALONE.contains(&self.claim) && is_switch())
    }

    /// As a person would write it.
    pub fn describe(&self) -> String {
        let alternatives: Vec<_> = self
            .any_of
            .iter()
            .map(|one| format!("{}{}", one.operator.as_str(), one.value))
            .collect();
        match alternatives.as_slice() {
            [one] => format!("{}: {one}", self.claim),
            many => format!("{}: [{}]", self.claim, many.join(", ")),
        }
    }
}

/// Claims that no NVSwitch makes: it runs no driver, is no board of its own, and protects nothing by a mode. No other kind
/// has one of these claims beside one that is called `device`.
const OF_GPUS_ALONE: [&str; 7] = [
    "board",
    "confidential_compute",
    "devtools",
    "driver",
    "firmware_id",
    "mode",
    "protected_pcie",
];

impl Comparison {
    /// Whether every value that satisfies this one satisfies the other too; says no where it can't tell.
    pub fn implies(&self, other: &Self) -> bool {
        let order = match (&self.value, &other.value) {
            (ClaimValue::Number(mine), ClaimValue::Number(theirs)) => mine.cmp(theirs),
            (ClaimValue::Version(mine), ClaimValue::Version(theirs)) => mine.cmp(theirs),
            (ClaimValue::HexVersion(mine), ClaimValue::HexVersion(theirs)) => mine.cmp(theirs),
            (ClaimValue::Time(mine), ClaimValue::Time(theirs)) => mine.cmp(theirs),
            (mine, theirs) => return self.operator == other.operator && mine == theirs,
        };
        match (self.operator, other.operator) {
            (Operator::Equal, wanted) => wanted.holds(order),
            (Operator::AtLeast, Operator::MoreThan) => order.is_gt(),
            (Operator::AtMost, Operator::LessThan) => order.is_lt(),
            (Operator::AtLeast | Operator::MoreThan, Operator::AtLeast | Operator::MoreThan) => {
                order.is_ge()
            }
            (Operator::AtMost | Operator::LessThan, Operator::AtMost | Operator::LessThan) => {
                order.is_le()
            }
            (Operator::AtLeast | Operator::MoreThan | Operator::AtMost | Operator::LessThan, _) => {
                false
            }
        }
    }

    /// Whether a value satisfies it.
    pub fn holds(&self, found: &ClaimValue) -> bool {
        match (found, &self.value) {
            (ClaimValue::Bool(found), ClaimValue::Bool(wanted)) => found == wanted,
            (ClaimValue::Text(found), ClaimValue::Text(wanted)) => found == wanted,
            (ClaimValue::Set(found), ClaimValue::Text(wanted)) => found.contains(wanted),
            (ClaimValue::Number(found), ClaimValue::Number(wanted)) => {
                self.operator.holds(found.cmp(wanted))
            }
            (ClaimValue::Version(found), ClaimValue::Version(wanted)) => {
                self.operator.holds(found.cmp(wanted))
            }
            (ClaimValue::HexVersion(found), ClaimValue::HexVersion(wanted)) => {
                self.operator.holds(found.cmp(wanted))
            }
            (ClaimValue::Time(found), ClaimValue::Time(wanted)) => {
                self.operator.holds(found.cmp(wanted))
            }
            // Types are those of the catalog on both sides; whatever else this is, it satisfies nothing.
            (
                ClaimValue::Bool(_)
                | ClaimValue::Text(_)
                | ClaimValue::Set(_)
                | ClaimValue::Number(_)
                | ClaimValue::Version(_)
                | ClaimValue::HexVersion(_)
                | ClaimValue::Time(_),
                _,
            ) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::{ClaimType, Claims};

    #[track_caller]
    fn check(operator: Operator, wanted: &str, claim_type: ClaimType, found: &str, holds: bool) {
        let value = |text| ClaimValue::parse(claim_type, text).unwrap();
        let comparison = Comparison {
            operator,
            value: value(wanted),
        };
        assert_eq!(
            comparison.holds(&value(found)),
            holds,
            "{found} {operator:?} {wanted}"
        );
    }

    #[test]
    fn values_compare_by_their_type() {
        use Operator::{AtLeast, AtMost, Equal, LessThan, MoreThan};
        check(AtLeast, "9", ClaimType::Number, "10", true);
        check(LessThan, "10", ClaimType::Number, "9", true);
        check(AtLeast, "570.86", ClaimType::Version, "570.124", true);
        check(AtMost, "570.86", ClaimType::Version, "570.86.1", false);
        check(
            MoreThan,
            "96.00.74.00.1C",
            ClaimType::HexVersion,
            "96.00.9F.00.01",
            true,
        );
        check(
            AtLeast,
            "2024-03-13",
            ClaimType::Time,
            "2024-03-12T23:59:59Z",
            false,
        );
        check(Equal, "UpToDate", ClaimType::Text, "UpToDate", true);
        check(Equal, "uptodate", ClaimType::Text, "UpToDate", false);
        check(Equal, "true", ClaimType::Bool, "false", false);
    }

    #[test]
    fn a_set_satisfies_by_a_member_and_other_types_by_nothing() {
        let wanted = Comparison {
            operator: Operator::Equal,
            value: ClaimValue::Text("b".into()),
        };
        let set = ClaimValue::Set(["a".into(), "b".into()].into());
        assert!(wanted.holds(&set));
        assert!(!wanted.holds(&ClaimValue::Number(1)));
    }

    #[test]
    fn what_implies_holds_wherever_the_other_does() {
        use Operator::{AtLeast, AtMost, Equal, LessThan, MoreThan};
        let read = |operator, number| Comparison {
            operator,
            value: ClaimValue::Number(number),
        };
        let all = [Equal, AtLeast, AtMost, MoreThan, LessThan]
            .into_iter()
            .flat_map(|operator| [2, 3, 4].map(|number| read(operator, number)));
        let all: Vec<Comparison> = all.collect();
        let values: Vec<ClaimValue> = (0..8).map(ClaimValue::Number).collect();
        for one in &all {
            for other in &all {
                let always = values.iter().all(|v| !one.holds(v) || other.holds(v));
                assert!(!one.implies(other) || always, "{one:?} {other:?}");
            }
        }
        assert!(read(AtLeast, 4).implies(&read(MoreThan, 3)));
        assert!(!read(AtLeast, 3).implies(&read(MoreThan, 3)));
        assert!(read(Equal, 4).implies(&read(AtLeast, 4)));
        assert!(!read(AtLeast, 4).implies(&read(Equal, 4)));
    }

    #[test]
    fn a_claim_that_is_missing_fails() {
        let condition = Condition {
            claim: "secure_boot",
            any_of: vec![Comparison {
                operator: Operator::Equal,
                value: ClaimValue::Bool(false),
            }],
        };
        assert!(!condition.holds(Claims::default().get("secure_boot")));
    }

    #[test]
    fn what_only_gpus_prove_binds_no_switch_beside_them() {
        use crate::claims::EvidenceKind;
        let device = |word: &str| {
            let mut claims = Claims::default();
            let value = ClaimValue::Text(word.into());
            claims
                .set(EvidenceKind::NvidiaGpu, "device", value)
                .unwrap();
            claims
        };
        let condition = |claim| Condition {
            claim,
            any_of: Vec::new(),
        };
        for (claim, of_switches) in [("driver", false), ("devtools", false), ("vbios", true)] {
            assert_eq!(condition(claim).concerns(&device("switch")), of_switches);
            assert!(condition(claim).concerns(&device("gpu")));
            assert!(condition(claim).concerns(&Claims::default()));
        }
    }
}
