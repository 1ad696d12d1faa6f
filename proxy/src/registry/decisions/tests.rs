//! What is found again is what would be decided, whatever has changed meanwhile.

use proptest::prelude::*;
use vouchsafe_config::policy::DenyReason;

use super::*;
use crate::registry::tests::{LOCAL, PATHS, RuleWish, WEB, Wish, after, epoch, known, start};

/// Everything that a decision depends on, as a test varies it.
#[derive(Clone, Copy, Debug)]
struct Asked {
    epoch: usize,
    peer: usize,
    direction: Direction,
    binding: Binding,
    port: &'static str,
    number: u16,
    method: &'static str,
    path: &'static str,
    grpc: bool,
    minute: u64,
}

/// What the first rule of [`epochs`] admits until evidence of now is 20 minutes old.
const ADMITTED: Asked = Asked {
    epoch: 0,
    peer: 0,
    direction: Direction::Inbound,
    binding: Binding::Certificate,
    port: "web",
    number: WEB,
    method: "GET",
    path: "/a",
    grpc: false,
    minute: 1,
};

fn rule(from: usize, path: usize, within: Option<u64>, expires: Option<u64>) -> RuleWish {
    RuleWish {
        to: None,
        raw: false,
        from,
        path,
        within,
        expires,
    }
}

/// Policies that follow one another: of two rules, of none, one that revokes, and one that has heard nothing of an instance.
fn epochs() -> Vec<Arc<PolicyEpoch>> {
    let rules = vec![
        rule(0, 0, Some(20), None),
        rule(0, 0, None, Some(30)),
        rule(1, 1, Some(20), None),
    ];
    let first = Wish {
        rules: rules[..1].to_vec(),
        ..Wish::default()
    };
    let all = Wish {
        rules,
        ..Wish::default()
    };
    let revoked = Wish {
        revocations: vec![(0, 2)],
        ..first.clone()
    };
    let lapsed = Wish {
        lapsed: Some(0),
        ..first.clone()
    };
    [first, Wish::default(), revoked, lapsed, all]
        .iter()
        .map(epoch)
        .collect()
}

impl Asked {
    fn with<R>(
        &self,
        epochs: &[Arc<PolicyEpoch>],
        decide: impl FnOnce(&Arc<PolicyEpoch>, &Arc<Verified>, &Context<'_>) -> R,
    ) -> R {
        let peer = &known().peers[self.peer];
        let request = Request {
            method: self.method,
            path: self.path,
            grpc: self.grpc,
        };
        let context = Context {
            direction: self.direction,
            local: &LOCAL.parse().unwrap(),
            peer: &peer.peer,
            binding: self.binding,
            port: &self.port.parse().unwrap(),
            number: Some(self.number),
            request: Some(&request),
            user: None,
            on_behalf_of: None,
            now: after(self.minute),
        };
        decide(&epochs[self.epoch], peer, &context)
    }
}

/// What is decided after [`ADMITTED`] was, by the same decisions.
#[track_caller]
fn check(asked: Asked, expected: Result<(), DenyReason>) {
    let epochs = epochs();
    let decisions = Decisions::default();
    let decide = |asked: &Asked| {
        asked.with(&epochs, |epoch, peer, context| {
            decisions.authorize(epoch, peer, context)
        })
    };
    assert!(matches!(decide(&ADMITTED), Decision::Allow(_)));
    let decided = match decide(&asked) {
        Decision::Allow(_) => Ok(()),
        Decision::Deny(reason) | Decision::Audit(reason) => Err(reason),
    };
    assert_eq!(decided, expected, "{asked:?}");
    // Nothing that was denied is forgotten or remembered by it.
    assert!(matches!(decide(&ADMITTED), Decision::Allow(_)));
}

#[test]
fn the_same_question_has_the_same_answer() {
    check(ADMITTED, Ok(()));
}

#[test]
fn a_rule_that_is_gone_admits_no_more() {
    check(
        Asked {
            epoch: 1,
            ..ADMITTED
        },
        Err(DenyReason::NoRule),
    );
}

#[test]
fn a_revocation_counts_for_what_was_admitted_before_it() {
    check(
        Asked {
            epoch: 2,
            ..ADMITTED
        },
        Err(DenyReason::Revoked),
    );
    check(
        Asked {
            epoch: 3,
            ..ADMITTED
        },
        Err(DenyReason::Lapsed),
    );
}

#[test]
fn another_certificate_is_another_question() {
    // Of the same workload, with evidence that is too old for the rule.
    check(
        Asked {
            peer: 1,
            ..ADMITTED
        },
        Err(DenyReason::EvidenceTooOld),
    );
    check(
        Asked {
            peer: 2,
            ..ADMITTED
        },
        Err(DenyReason::NoRule),
    );
}

#[test]
fn another_direction_port_or_number_is_another_question() {
    let direction = Direction::Outbound;
    check(
        Asked {
            direction,
            ..ADMITTED
        },
        Err(DenyReason::NoRule),
    );
    check(
        Asked {
            port: "raw",
            ..ADMITTED
        },
        Err(DenyReason::UnknownDoor),
    );
    check(
        Asked {
            number: 8001,
            ..ADMITTED
        },
        Err(DenyReason::UnknownDoor),
    );
}

#[test]
fn another_method_or_path_is_another_question() {
    check(
        Asked {
            method: "PUT",
            ..ADMITTED
        },
        Err(DenyReason::Request),
    );
    check(
        Asked {
            path: "/b",
            ..ADMITTED
        },
        Err(DenyReason::Request),
    );
    check(
        Asked {
            path: "/a/",
            ..ADMITTED
        },
        Err(DenyReason::Request),
    );
}

#[test]
fn evidence_that_has_grown_too_old_is_no_longer_admitted() {
    check(
        Asked {
            minute: 20,
            ..ADMITTED
        },
        Ok(()),
    );
    check(
        Asked {
            minute: 21,
            ..ADMITTED
        },
        Err(DenyReason::EvidenceTooOld),
    );
}

#[test]
fn each_input_is_compared_and_not_only_what_a_rule_looked_at() {
    let epochs = epochs();
    let decisions = Decisions::default();
    let finds = |asked: Asked| {
        asked.with(&epochs, |epoch, peer, context| {
            let held = decisions.0.borrow();
            let request = context.request.unwrap();
            let known = held
                .places
                .get(place(peer, request))
                .and_then(Option::as_ref);
            Arc::ptr_eq(&held.epoch, epoch)
                && known.is_some_and(|known| {
                    known.holds_at(context.now) && known.question.is(peer, context, request)
                })
        })
    };
    ADMITTED.with(&epochs, |epoch, peer, context| {
        decisions.authorize(epoch, peer, context)
    });
    assert!(finds(ADMITTED));
    assert!(finds(Asked {
        minute: 20,
        ..ADMITTED
    }));
    for other in [
        Asked {
            epoch: 4,
            ..ADMITTED
        },
        Asked {
            peer: 1,
            ..ADMITTED
        },
        Asked {
            direction: Direction::Outbound,
            ..ADMITTED
        },
        Asked {
            binding: Binding::Exporter(start()),
            ..ADMITTED
        },
        Asked {
            port: "raw",
            ..ADMITTED
        },
        Asked {
            number: 8001,
            ..ADMITTED
        },
        Asked {
            method: "PUT",
            ..ADMITTED
        },
        Asked {
            path: "/b",
            ..ADMITTED
        },
        Asked {
            grpc: true,
            ..ADMITTED
        },
        Asked {
            minute: 0,
            ..ADMITTED
        },
        Asked {
            minute: 21,
            ..ADMITTED
        },
    ] {
        assert!(!finds(other), "{other:?}");
    }
}

#[test]
fn what_is_remembered_is_bounded() {
    let epochs = epochs();
    let decisions = Decisions::default();
    let long = format!("/{}", "a".repeat(LONGEST_PATH));
    for (path, is_worth) in [(&*long, false), ("/a", true)] {
        let request = Request {
            method: "GET",
            path,
            grpc: false,
        };
        ADMITTED.with(&epochs, |epoch, peer, context| {
            let context = Context {
                request: Some(&request),
                ..*context
            };
            decisions.authorize(epoch, peer, &context);
            assert_eq!(is_worth_it(&context, &request), is_worth);
        });
    }
    let held = decisions.0.borrow();
    assert_eq!(held.places.len(), PLACES);
    assert_eq!(held.places.iter().flatten().count(), 1);
}

#[test]
fn a_proof_of_the_future_is_asked_about_each_time() {
    let binding = Binding::Exporter(after(2));
    let asked = Asked {
        binding,
        ..ADMITTED
    };
    asked.with(&epochs(), |_, _, context| {
        assert!(!is_worth_it(context, context.request.unwrap()));
        assert!(is_worth_it(
            &Context {
                now: after(2),
                ..*context
            },
            context.request.unwrap()
        ));
    });
}

prop_compose! {
    fn any_question()(
        epoch in 0usize..5,
        peer in 0usize..4,
        outbound in prop::bool::weighted(0.1),
        bound in prop::option::weighted(0.2, 0u64..30),
        raw in prop::bool::weighted(0.1),
        number in prop_oneof![9 => Just(WEB), 1 => Just(8001u16)],
        put in prop::bool::weighted(0.1),
        path in 0usize..3,
        grpc in prop::bool::weighted(0.1),
        minute in 0u64..40,
    ) -> Asked {
        Asked {
            epoch,
            peer,
            direction: if outbound { Direction::Outbound } else { Direction::Inbound },
            binding: bound.map_or(Binding::Certificate, |minute| Binding::Exporter(after(minute))),
            port: if raw { "raw" } else { "web" },
            number,
            method: if put { "PUT" } else { "GET" },
            path: PATHS[path],
            grpc,
            minute,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn decisions_are_those_of_authorize_in_any_order_of_questions(
        questions in prop::collection::vec((any_question(), any::<prop::sample::Index>()), 1..80),
    ) {
        let epochs = epochs();
        let decisions = Decisions::default();
        let mut asked: Vec<Asked> = Vec::new();
        for (question, again) in questions {
            // As often one that was asked before, at another time or by the policy of another time.
            let before = asked.get(again.index(2 * asked.len() + 1)).copied();
            let question = before.map_or(question, |before| Asked {
                epoch: if question.grpc { question.epoch } else { before.epoch },
                minute: question.minute,
                ..before
            });
            asked.push(question);
            let (found, decided) = question.with(&epochs, |epoch, peer, context| {
                (decisions.authorize(epoch, peer, context), authorize(&epoch.policy, context))
            });
            prop_assert_eq!(found, decided, "{:?}", question);
        }
    }
}
