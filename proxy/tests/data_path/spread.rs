//! Which worker has a connection, and which lane a flow takes where nobody says which.

use std::collections::BTreeMap;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use vouchsafe_config::policy::Lane;
use vouchsafe_proxy::registry::LaneKind;
use vouchsafe_proxy::registry::snapshot::ConnectionSnapshot;

use crate::support::{
    LANES, Mesh, Pair, Sidecar, Wish, application, read_all, read_until, run, soon, until,
};

/// Connections by worker.
async fn workers(
    sidecar: &Sidecar,
    counts: impl Fn(&ConnectionSnapshot) -> bool,
) -> BTreeMap<usize, usize> {
    let connections = sidecar.workers.as_ref().unwrap().connections();
    let mut by_worker = BTreeMap::new();
    for connection in soon("an answer", connections.list()).await {
        if counts(&connection) {
            *by_worker.entry(connection.worker).or_default() += 1;
        }
    }
    by_worker
}

/// A pair whose sidecars have so many workers, with an application that says `x` and waits.
async fn wide_pair(lane: Lane, workers: usize, lanes: usize) -> Pair {
    let server = application(|mut stream| async move {
        stream.write_all(b"x").await.unwrap();
        let _ = stream.read(&mut [0; 1]).await;
    })
    .await;
    let mesh = Mesh::new();
    let mut wish = Wish::new("app/server", lane).behind("raw", server);
    wish.workers = workers;
    let server = Sidecar::start(&mesh, wish);
    let mut wish = Wish::new("app/client", lane).calls("raw", server.door());
    wish.workers = workers;
    wish.limits.lanes = lanes;
    let client = Sidecar::start(&mesh, wish);
    Pair {
        client,
        server,
        mesh,
    }
}

async fn open(pair: &Pair, flows: usize) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    for _ in 0..flows {
        let mut stream = pair.connect().await;
        // One after the other, so that none is chosen for before the one before it counts.
        assert_eq!(read_until(&mut stream, "x").await, "x");
        streams.push(stream);
    }
    streams
}

#[test]
fn few_flows_are_spread_evenly_over_the_workers_of_both_sidecars() {
    run(async {
        let pair = wide_pair(Lane::Dedicated, 2, 8).await;
        let even = BTreeMap::from([(0, 4), (1, 4)]);
        let streams = open(&pair, 8).await;
        let local = |one: &ConnectionSnapshot| one.lane == LaneKind::Local;
        assert_eq!(workers(&pair.client, local).await, even);
        let inbound = |one: &ConnectionSnapshot| one.direction == "inbound";
        assert_eq!(workers(&pair.server, inbound).await, even);
        // Those that ended no longer count.
        drop(streams);
        let ended = ["direction=\"inbound\"", "dedicated"];
        until("the end of all", || {
            pair.server.metric("vouchsafe_connections_open", &ended) == 0.0
                && pair.client.metric("vouchsafe_connections_open", &["local"]) == 0.0
        })
        .await;
        let streams = open(&pair, 8).await;
        assert_eq!(workers(&pair.client, local).await, even);
        assert_eq!(workers(&pair.server, inbound).await, even);
        drop(streams);
    });
}

#[test]
fn no_more_workers_than_are_allowed_keep_shared_connections_to_one_workload() {
    run(async {
        for (lane, lanes, carriers) in [
            (Lane::Shared, 1, 1),
            (Lane::Shared, 2, 2),
            (Lane::Auto, 2, 2),
            (Lane::Dedicated, 1, 3),
        ] {
            let pair = wide_pair(lane, 3, lanes).await;
            let streams = open(&pair, 9).await;
            let local = |one: &ConnectionSnapshot| one.lane == LaneKind::Local;
            let found = workers(&pair.client, local).await;
            assert_eq!(found.len(), carriers, "{lane:?}: {found:?}");
            assert_eq!(found.values().sum::<usize>(), 9);
            if lane != Lane::Dedicated {
                let shared = |one: &ConnectionSnapshot| one.lane == LaneKind::Shared;
                let found = workers(&pair.client, shared).await;
                assert_eq!(found.len(), lanes, "{lane:?}: {found:?}");
                assert!(found.values().all(|count| *count == 1), "{found:?}");
            }
            drop(streams);
        }
    });
}

#[test]
fn a_flow_that_is_handed_over_passes_all_its_bytes() {
    run(async {
        for lane in LANES {
            // All of the application's connections are handed to one worker, whoever accepts them.
            let pair = wide_pair(lane, 4, 1).await;
            for _ in 0..6 {
                // One byte, which the application reads: it ends with a reset where it leaves some unread.
                let mut stream = pair.connect().await;
                stream.write_all(b"e").await.unwrap();
                assert_eq!(read_all(&mut stream).await, "x", "{lane:?}");
            }
        }
    });
}

#[test]
fn a_lane_keeps_room_for_control_streams_so_that_no_flow_waits_for_another() {
    run(async {
        let server = application(|mut stream| async move {
            stream.write_all(b"x").await.unwrap();
            let _ = stream.read(&mut [0; 1]).await;
        })
        .await;
        let mesh = Mesh::new();
        let mut wish = Wish::new("app/server", Lane::Shared).behind("raw", server);
        wish.limits.streams = 8;
        let server = Sidecar::start(&mesh, wish);
        let wish = Wish::new("app/client", Lane::Shared).calls("raw", server.door());
        let client = Sidecar::start(&mesh, wish);
        let pair = Pair {
            client,
            server,
            mesh,
        };
        let streams = open(&pair, 20).await;
        // Six on each, and the last two.
        let shared = |one: &ConnectionSnapshot| one.lane == LaneKind::Shared;
        let found = workers(&pair.client, shared).await;
        assert_eq!(found, BTreeMap::from([(0, 4)]));
        drop(streams);
    });
}

const BULK: &str = "vouchsafe_bulk_listeners";
const DEDICATED: [&str; 2] = ["direction=\"outbound\"", "lane=\"dedicated\""];

/// Asks for so many bytes over a connection of its own.
async fn fetch(pair: &Pair, bytes: u32) {
    let mut stream = pair.connect().await;
    stream.write_u32(bytes).await.unwrap();
    let mut received = Vec::new();
    let read = stream.read_to_end(&mut received);
    assert_eq!(soon("all bytes", read).await.unwrap(), bytes as usize);
}

async fn pair_for(lane: Lane) -> Pair {
    let server = application(|mut stream| async move {
        let bytes = stream.read_u32().await.unwrap();
        stream.write_all(&vec![7; bytes as usize]).await.unwrap();
    })
    .await;
    Pair::start(lane, "raw", server)
}

#[test]
fn later_flows_of_a_port_that_moves_much_get_a_connection_each_until_it_moves_little() {
    run(async {
        let pair = pair_for(Lane::Auto).await;
        let dedicated = || {
            let total = "vouchsafe_connections_total";
            pair.client.metric(total, &DEDICATED)
        };
        fetch(&pair, 1_000).await;
        fetch(&pair, 40 * 1024 * 1024).await;
        assert_eq!(
            dedicated(),
            0.0,
            "the lane of a flow was chosen before it moved anything"
        );
        until("the flow to be counted", || {
            pair.client.metric(BULK, &[]) == 1.0
        })
        .await;
        fetch(&pair, 1_000).await;
        assert_eq!(dedicated(), 1.0);
        for _ in 0..40 {
            fetch(&pair, 1_000).await;
        }
        until("small flows to be counted", || {
            pair.client.metric(BULK, &[]) == 0.0
        })
        .await;
        let before = dedicated();
        assert!(before < 40.0, "{before}");
        fetch(&pair, 1_000).await;
        assert_eq!(dedicated(), before);
    });
}

#[test]
fn a_flow_that_goes_on_is_counted_before_it_ends() {
    run(async {
        let server = application(|mut stream| async move {
            stream.write_all(&vec![7; 80 * 1024 * 1024]).await.unwrap();
            let _ = stream.read(&mut [0; 1]).await;
        })
        .await;
        let pair = Pair::start(Lane::Auto, "raw", server);
        let mut stream = pair.connect().await;
        let mut received = vec![0; 80 * 1024 * 1024];
        soon("all bytes", stream.read_exact(&mut received))
            .await
            .unwrap();
        until("the flow to be counted", || {
            pair.client.metric(BULK, &[]) == 1.0
        })
        .await;
        drop(stream);
    });
}

#[test]
fn who_asks_for_the_shared_lane_has_it_whatever_flows_move() {
    run(async {
        let pair = pair_for(Lane::Shared).await;
        fetch(&pair, 40 * 1024 * 1024).await;
        until("the flow to be counted", || {
            pair.client.metric(BULK, &[]) == 1.0
        })
        .await;
        fetch(&pair, 1_000).await;
        let total = "vouchsafe_connections_total";
        assert_eq!(pair.client.metric(total, &DEDICATED), 0.0);
    });
}
