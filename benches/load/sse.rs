//! Server-sent events: how long a token takes from the model server's write to the client.

use std::rc::Rc;

use anyhow::ensure;
use tokio::task::JoinSet;

use crate::Load;
use crate::http1::Connection;
use crate::measure::{Tally, window};
use crate::timer::monotonic_nanoseconds;

/// Digits of the time in an event: enough for every `u64`.
pub(crate) const DIGITS: usize = 20;

/// What stands before the time.
pub(crate) const MARK: &[u8] = b"data: ";

pub(crate) async fn run(load: &Load, interval: u64) -> anyhow::Result<serde_json::Value> {
    let tally = Tally::new(load);
    let request = format!(
        "GET /sse/{interval} HTTP/1.1\r\nhost: backend.test\r\naccept: text/event-stream\r\n\r\n"
    );
    let mut tasks = JoinSet::new();
    for _ in 0..load.connections {
        let mut connection = Connection::open(load.target).await?;
        let request = request.clone();
        let tally = Rc::clone(&tally);
        tasks.spawn_local(async move {
            let stream = async {
                connection.request(request.as_bytes()).await?;
                let mut events = Events::default();
                loop {
                    let bytes = connection.next_bytes().await?;
                    let now = monotonic_nanoseconds();
                    for sent in events.read(&bytes)? {
                        let mut tally = tally.borrow_mut();
                        tally.latency.record(now.saturating_sub(sent));
                        if !tally.claim() {
                            return Ok(());
                        }
                        tally.settle(1);
                    }
                }
                #[expect(unreachable_code, reason = "gives the endless block its error type")]
                anyhow::Ok(())
            };
            if let Err(error) = stream.await {
                tally.borrow_mut().fail(&error);
            }
        });
    }
    window(load, &tally).await
}

/// Finds the times of events in a body as it comes. The framing of chunks lies between events, because each event is one
/// write of the backend; a proxy that cuts an event in two is met by keeping the tail.
#[derive(Debug, Default)]
struct Events {
    tail: Vec<u8>,
}

impl Events {
    fn read(&mut self, bytes: &[u8]) -> anyhow::Result<Vec<u64>> {
        self.tail.extend_from_slice(bytes);
        ensure!(self.tail.len() < 1 << 20, "no event in 1 MiB of body");
        let mut times = Vec::new();
        let mut read = 0;
        while let Some(rest) = self.tail.get(read..) {
            let Some(at) = rest.windows(MARK.len()).position(|window| window == MARK) else {
                break;
            };
            let start = at + MARK.len();
            let Some(digits) = rest.get(start..start + DIGITS) else {
                break;
            };
            times.push(std::str::from_utf8(digits)?.parse()?);
            read += start + DIGITS;
        }
        self.tail.drain(..read);
        Ok(times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_found_wherever_the_body_is_cut() {
        let body =
            b"1c\r\ndata: 00000000000000000042\n\n\r\n1c\r\ndata: 00000000000000000043\n\n\r\n";
        for cut in 0..body.len() {
            let (left, right) = body.split_at(cut);
            let mut events = Events::default();
            let mut times = events.read(left).unwrap();
            times.extend(events.read(right).unwrap());
            assert_eq!(times, [42, 43], "cut at {cut}");
        }
    }
}
