//! Issuing authorities that operators have made ahead of their time.

use prost::Message;
use tonic::Status;
use vouchsafe_api::v1::operator_server::Operator;

use super::*;
use crate::rpc::operator::OperatorApi;

impl Factory {
    async fn prepare(&self, reason: &str) -> Result<v1::PrepareAuthorityResponse, Status> {
        let api = OperatorApi::new(Arc::clone(self.control_plane())).acting_for(1234);
        let reason = reason.to_owned();
        let request = v1::PrepareAuthorityRequest { reason };
        let prepared = api.prepare_authority(tonic::Request::new(request)).await;
        prepared.map(tonic::Response::into_inner)
    }

    async fn states(&self) -> Vec<(String, String)> {
        let status = self.status().await;
        let authorities = status.authorities.into_iter();
        authorities.map(|one| (one.role, one.state)).collect()
    }
}

#[tokio::test]
async fn a_prepared_authority_reaches_every_sidecar_and_is_recorded_with_its_actor() {
    let factory = Factory::start(POLICY).await;
    let (_connection, mut watch) = watching(&factory).await;
    let prepared = factory.prepare("the key ceremony").await.unwrap();
    let mut newest = watch.change().await;
    while v1::Revision::from(newest.revision) != prepared.revision.unwrap() {
        newest = watch.change().await;
    }
    factory.verify(&newest);
    let bundle = watch
        .resources()
        .find(|one| one.name.to_string() == "trust-bundle");
    let bundle = v1::TrustBundle::decode(bundle.unwrap().content.clone()).unwrap();
    assert_eq!(bundle.authorities.len(), 2);
    let (root, issuing) = ("root".to_owned(), "issuing".to_owned());
    assert_eq!(
        factory.states().await,
        [
            (root, "active".to_owned()),
            (issuing.clone(), "active".to_owned()),
            (issuing, "prepared".to_owned()),
        ]
    );
    // Whoever enrols meanwhile is signed for by the one that has the turn, and believed by the new bundle.
    factory
        .attest(&Sidecar::new("dev/web", "other"))
        .await
        .unwrap();

    let events: Vec<Event> = factory.records().into_iter().map(|one| one.event).collect();
    let act = events.iter().find_map(|event| match event {
        Event::OperatorAct(act) => Some(act),
        _ => None,
    });
    let act = act.unwrap();
    assert_eq!(
        (&*act.act, &*act.actor, &*act.reason),
        (
            "prepare_authority",
            "uid 1234 at the operator socket",
            "the key ceremony"
        )
    );
    let made = events.iter().any(|event| {
        matches!(event, Event::AuthorityCreated { spki_sha256, .. } if spki_sha256[..] == prepared.spki_sha256[..])
    });
    assert!(made);
    factory.stop().await;
}

#[tokio::test]
async fn an_authority_is_prepared_for_a_reason_and_not_without_end() {
    let factory = Factory::start(POLICY).await;
    let refused = factory.prepare(" ").await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    for _ in 0..3 {
        factory.prepare("again").await.unwrap();
    }
    let refused = factory.prepare("again").await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    assert!(refused.message().contains("4 issuing authorities"));
    factory.stop().await;
}
