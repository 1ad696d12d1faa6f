//! Whether what the flags of a revocation name is there: documents of the policy, and what instances showed.
//!
//! A name that the policy does not have is a slip, and refused unless the operator says that it is meant. What nobody shows
//! now may be just what he means (a stolen key whose certificate was renewed meanwhile), so it is only said, with what the
//! record tells of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

use tonic::Status;
use vouchsafe_api::convert::record::{Event, RecordEntry};
use vouchsafe_api::v1::{
    ChangeResponse, ListWorkloadsRequest, ShownClaim, SidecarStatus, StatusRequest, StatusResponse,
};
use vouchsafe_attestation::name::{Name, WorkloadName};
use vouchsafe_attestation::spiffe_id::SpiffeId;
use vouchsafe_config::problem::nearest;
use vouchsafe_config::revocation::IdPattern;

use super::flags::{Predicates, show};
use crate::app;
use crate::cli::client::{connect, failed};
use crate::cli::{Ask, Outcome};
use crate::log;
use crate::telemetry::Chain;

/// What the control plane knows.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    pub(super) status: StatusResponse,
    pub(super) workloads: Vec<String>,
    pub(super) nodes: Vec<String>,
    pub(super) images: Vec<String>,
}

impl Known {
    pub(super) async fn ask(ask: &Ask) -> Result<Self, Outcome> {
        let mut client = connect(&ask.data).await?;
        let bad = |status: Status| failed(&status);
        let status = client.status(StatusRequest {}).await.map_err(bad)?;
        let listed = client.list_workloads(ListWorkloadsRequest {});
        let listed = listed.await.map_err(bad)?.into_inner();
        let workloads = listed.workloads.into_iter();
        Ok(Self {
            status: status.into_inner(),
            workloads: workloads.map(|one| one.workload).collect(),
            nodes: listed.nodes,
            images: listed.images,
        })
    }

    /// Names that the policy does not have, and whether each can be meant all the same.
    pub(super) fn unknown_names(&self, wanted: &Predicates, namespace: &Name) -> Vec<Unknown> {
        let mut found = Vec::new();
        for reference in &wanted.workload {
            let name = reference.within(namespace).to_string();
            if !self.workloads.contains(&name) {
                let meant = self.near(&self.workloads, &name);
                let what = format!("--workload: there is no Workload `{name}`{meant}");
                found.push(Unknown {
                    what,
                    may_come: true,
                });
            }
        }
        for reference in &wanted.node {
            let name = reference.within(namespace).to_string();
            if !self.nodes.contains(&name) {
                let meant = self.near(&self.nodes, &name);
                let what = format!("--node: there is no Node `{name}`{meant}");
                found.push(Unknown {
                    what,
                    may_come: false,
                });
            }
        }
        let patterns = wanted.spiffe_id.iter();
        found.extend(patterns.filter_map(|pattern| self.unknown_id(pattern)));
        found
    }

    /// A pattern of this mesh's IDs that no workload's fits.
    fn unknown_id(&self, text: &str) -> Option<Unknown> {
        let trust_domain = self.status.trust_domain.parse().ok()?;
        let pattern = IdPattern::parse(text).filter(|one| *one.trust_domain() == trust_domain)?;
        let workloads = self.workloads.iter();
        let names = workloads.filter_map(|name| name.parse::<WorkloadName>().ok());
        let ids: Vec<SpiffeId> = names
            .map(|name| SpiffeId::for_workload(&trust_domain, &name))
            .collect();
        if ids.iter().any(|id| pattern.matches(id)) {
            return None;
        }
        let ids: Vec<String> = ids.iter().map(|id| id.as_str().to_owned()).collect();
        let meant = self.near(&ids, text);
        Some(Unknown {
            what: format!("--spiffe-id: no workload of the policy has an ID like `{text}`{meant}"),
            may_come: true,
        })
    }

    fn near(&self, names: &[String], found: &str) -> String {
        let meant = nearest(found, names.iter().map(String::as_str));
        meant.map_or_else(String::new, |meant| format!("; did you mean `{meant}`?"))
    }

    /// What is to be said of whom the revocation means: that it means nobody, and which of its facts nobody shows.
    pub(super) fn remarks(
        &self,
        wanted: &Predicates,
        response: &ChangeResponse,
        data: &Path,
    ) -> Vec<String> {
        let mut remarks = Vec::new();
        let sidecars = &response.sidecars;
        let means_nobody = response.would_drop == 0
            && sidecars
                .iter()
                .all(|one| !one.is_revoked && one.unanswered.is_empty());
        if means_nobody {
            let away = self.status.sidecars.iter().filter(|one| !one.connected);
            let away = match away.count() {
                0 => String::new(),
                away => format!("; {away} instances are not connected and were not asked"),
            };
            remarks.push(format!(
                "it means nobody who is known now: none of the {} connected sidecars, and no live connection{away}",
                sidecars.len()
            ));
        }
        let unshown = self.unshown(wanted);
        if !unshown.is_empty() {
            let told = Past::read(data, &unshown);
            remarks.extend(unshown.iter().map(|fact| self.remark(fact, &told)));
        }
        remarks
    }

    /// Facts that no instance shows now.
    fn unshown(&self, wanted: &Predicates) -> Vec<Fact> {
        let sidecars = &self.status.sidecars;
        let is_one = |text: &str, of: fn(&SidecarStatus) -> &Vec<u8>| {
            let bytes = without_zeros(text);
            sidecars
                .iter()
                .any(|one| without_zeros(&hex::encode(of(one))) == bytes)
        };
        let is_shown = |text: &str, of: fn(&SidecarStatus) -> &Vec<ShownClaim>| {
            let mut claims = sidecars.iter().flat_map(of);
            claims.any(|claim| claim.value.eq_ignore_ascii_case(text))
        };
        let authorities = &self.status.authorities;
        let mut found = Vec::new();
        let mut add = |sort: Sort, values: &[String], is_known: &dyn Fn(&str) -> bool| {
            let unknown = values.iter().filter(|value| !is_known(value));
            found.extend(unknown.map(|value| Fact {
                sort,
                value: value.clone(),
            }));
        };
        add(Sort::Serial, &wanted.serial, &|text| {
            is_one(text, |one| &one.serial)
        });
        add(Sort::Key, &wanted.spki, &|text| {
            is_one(text, |one| &one.spki_sha256)
        });
        add(Sort::Hardware, &wanted.hardware_id, &|text| {
            is_shown(text, |one| &one.identities)
        });
        add(Sort::Measurement, &wanted.measurement, &|text| {
            is_shown(text, |one| &one.measurements)
        });
        add(Sort::Authority, &wanted.authority, &|text| {
            let mut keys = authorities.iter().map(|one| hex::encode(&one.spki_sha256));
            keys.any(|key| key.eq_ignore_ascii_case(text))
        });
        found
    }

    fn remark(&self, fact: &Fact, told: &Result<Past, String>) -> String {
        let Fact { sort, value } = fact;
        let told = match told {
            Ok(past) => past.0.get(fact),
            Err(error) => {
                return format!(
                    "{} `{value}`: nobody shows it now, and the record can't be read: {error}",
                    sort.flag()
                );
            }
        };
        let said = match (sort, told) {
            (Sort::Serial | Sort::Key, Some(held)) => {
                let now = self.status.sidecars.iter();
                let mut now = now.filter(|one| hex::encode(&one.instance) == held.instance);
                let now = now.next().map(|one| hex::encode(&one.serial));
                let now = match now {
                    Some(serial) if *sort == Sort::Serial => {
                        format!("was renewed since, its certificate is `{serial}` now")
                    }
                    Some(serial) => format!("has another key now, of certificate `{serial}`"),
                    None => "holds no certificate now".to_owned(),
                };
                format!(
                    "was of {} (instance {}), issued at {}, until {}; that instance {now}",
                    held.whose,
                    held.instance,
                    show(held.at),
                    show(held.until)
                )
            }
            (Sort::Hardware, Some(held)) => format!(
                "nobody proves it now; {} (instance {}) did last, at {}",
                held.whose,
                held.instance,
                show(held.at)
            ),
            (Sort::Authority, Some(held)) => format!(
                "is none of the authorities now; it was the {} that ends at {}",
                held.whose,
                show(held.until)
            ),
            (Sort::Measurement, _) if self.images.contains(value) => {
                "is an image of a profile, and nobody runs it now".to_owned()
            }
            (Sort::Measurement, _) => format!(
                "nobody shows it now, and no profile has an image of that name{}",
                self.near(&self.images, value)
            ),
            (Sort::Serial | Sort::Key, None) => {
                "no certificate with it is in the record".to_owned()
            }
            (Sort::Hardware, None) => "nobody who is in the record has proven it".to_owned(),
            (Sort::Authority, None) => {
                "is no authority of this mesh (`vouchsafe authority list`)".to_owned()
            }
        };
        format!("{} `{value}`: {said}", sort.flag())
    }
}

/// A name that the policy does not have.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Unknown {
    pub(super) what: String,
    /// Whether a revocation can be of what is yet to come.
    pub(super) may_come: bool,
}

/// A sort of facts that can be looked up.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Sort {
    Serial,
    Key,
    Hardware,
    Measurement,
    Authority,
}

impl Sort {
    fn flag(self) -> &'static str {
        match self {
            Self::Serial => "--serial",
            Self::Key => "--spki",
            Self::Hardware => "--hardware-id",
            Self::Measurement => "--measurement",
            Self::Authority => "--authority",
        }
    }
}

/// Something that a predicate names.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Fact {
    sort: Sort,
    value: String,
}

/// What the record tells of facts: of each the newest.
#[derive(Debug, Default)]
struct Past(BTreeMap<Fact, Held>);

/// Whose something was.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Held {
    whose: String,
    instance: String,
    at: SystemTime,
    until: SystemTime,
}

impl Past {
    /// Reads the record once, of the data folder beside the socket.
    fn read(data: &Path, facts: &[Fact]) -> Result<Self, String> {
        let (path, _) = app::record(data).map_err(|error| Chain(&error).to_string())?;
        let mut past = Self::default();
        log::scan(&path, 1, |record| {
            // What an older build wrote otherwise tells nothing of whom it meant.
            if let Ok(entry) = RecordEntry::decode(&record.leaf) {
                past.see(&entry, facts);
            }
            true
        })
        .map_err(|error| Chain(&error).to_string())?;
        Ok(past)
    }

    fn see(&mut self, entry: &RecordEntry, facts: &[Fact]) {
        for fact in facts {
            let value = without_zeros(&fact.value);
            let is_it = |bytes: &[u8]| without_zeros(&hex::encode(bytes)) == value;
            let held = match (&entry.event, fact.sort) {
                (Event::Issued(issued), sort) => {
                    let is_meant = match sort {
                        Sort::Serial => is_it(&issued.serial),
                        Sort::Key => is_it(&issued.spki_sha256),
                        Sort::Hardware => { issued.hardware.iter() }.any(|one| {
                            let (_, id) = one.split_once(':').unwrap_or(("", one));
                            id.eq_ignore_ascii_case(&fact.value)
                        }),
                        Sort::Measurement | Sort::Authority => false,
                    };
                    is_meant.then(|| Held {
                        whose: issued.spiffe_id.clone(),
                        instance: hex::encode(issued.instance),
                        at: entry.time,
                        until: issued.not_after,
                    })
                }
                (
                    Event::AuthorityCreated {
                        role,
                        spki_sha256,
                        not_after,
                    },
                    Sort::Authority,
                ) => is_it(spki_sha256).then(|| Held {
                    whose: format!("{role} authority"),
                    instance: String::new(),
                    at: entry.time,
                    until: *not_after,
                }),
                _ => None,
            };
            if let Some(held) = held {
                self.0.insert(fact.clone(), held);
            }
        }
    }
}

/// Digits of hex, as numbers compare.
fn without_zeros(text: &str) -> String {
    text.trim_start_matches('0').to_ascii_lowercase()
}

#[cfg(test)]
mod tests;
