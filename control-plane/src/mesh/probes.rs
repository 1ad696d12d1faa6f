//! Questions to connected sidecars: what would fall if a change were made.
//!
//! Each mesh-state stream takes one question at a time and carries its answer back. Nobody waits longer than the asker
//! says, and a sidecar that does not answer is named, so that a report never looks whole when it is not.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use vouchsafe_api::convert::mesh_state::probe::ProbeReport;
use vouchsafe_api::v1;
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_attestation::result::InstanceId;

/// Connected sidecars that can be asked.
#[derive(Clone, Debug, Default)]
pub struct Probes {
    inner: Arc<Mutex<Inner>>,
    /// One question at a time: a second one would take the place of the first on every stream.
    asking: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
struct Inner {
    lines: HashMap<u64, Attached>,
    next: u64,
}

#[derive(Clone, Debug)]
struct Attached {
    workload: WorkloadName,
    instance: InstanceId,
    questions: mpsc::Sender<Question>,
}

#[derive(Debug)]
struct Question {
    probe: v1::Probe,
    answer: oneshot::Sender<ProbeReport>,
}

/// What one sidecar says.
#[derive(Clone, Debug)]
pub struct SidecarReport {
    /// Whose name it bears.
    pub workload: WorkloadName,
    /// Which.
    pub instance: InstanceId,
    /// Its answer.
    pub report: Result<ProbeReport, Unanswered>,
}

/// Why a sidecar has not answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unanswered {
    /// It is still busy with an earlier question.
    #[error("it is busy with an earlier question")]
    Busy,
    /// Its stream ended meanwhile.
    #[error("its stream ended")]
    Gone,
    /// It did not answer in time.
    #[error("it did not answer in time")]
    Silent,
}

impl Probes {
    /// Asks every connected sidecar of `whom`, each with what `question` makes for its workload; the identifier is set
    /// here. Whoever asks meanwhile waits for his turn.
    ///
    /// Answers come in no order; each such sidecar that was connected at the start has an entry.
    ///
    /// # Cancel safety
    /// Safe: an answer to a question that nobody waits for is dropped.
    pub async fn ask(
        &self,
        whom: impl Fn(&WorkloadName, &InstanceId) -> bool,
        mut question: impl FnMut(&WorkloadName) -> v1::Probe,
        patience: Duration,
    ) -> Vec<SidecarReport> {
        let _turn = self.asking.lock().await;
        let deadline = Instant::now() + patience;
        let mut lines: Vec<Attached> = self.lock().lines.values().cloned().collect();
        lines.retain(|line| whom(&line.workload, &line.instance));
        let asked = lines.into_iter().map(|line| {
            let (answer, answered) = oneshot::channel();
            let probe = question(&line.workload);
            let sent = line.questions.try_send(Question { probe, answer });
            (line, sent.map_err(|error| unsent(&error)), answered)
        });
        // Sent to all before the first answer is waited for.
        let asked: Vec<_> = asked.collect();
        let answers = asked.into_iter().map(|(line, sent, answered)| async move {
            let report = match sent {
                Err(unanswered) => Err(unanswered),
                Ok(()) => match tokio::time::timeout_at(deadline, answered).await {
                    Ok(Ok(report)) => Ok(report),
                    Ok(Err(_)) => Err(Unanswered::Gone),
                    Err(_) => Err(Unanswered::Silent),
                },
            };
            SidecarReport {
                workload: line.workload,
                instance: line.instance,
                report,
            }
        });
        join_all(answers).await
    }

    /// Makes a stream known.
    pub(crate) fn attach(&self, workload: WorkloadName, instance: InstanceId) -> Line {
        // One that waits while another is under way is refused: probes are asked by people.
        let (questions, receiver) = mpsc::channel(1);
        let mut inner = self.lock();
        inner.next += 1;
        let id = inner.next;
        let attached = Attached {
            workload,
            instance,
            questions,
        };
        inner.lines.insert(id, attached);
        Line {
            id,
            probes: self.clone(),
            questions: receiver,
            asked: None,
            count: 0,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change is a single insertion or removal.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unsent(error: &mpsc::error::TrySendError<Question>) -> Unanswered {
    match error {
        mpsc::error::TrySendError::Full(_) => Unanswered::Busy,
        mpsc::error::TrySendError::Closed(_) => Unanswered::Gone,
    }
}

/// A stream's end of it; unknown again when it is dropped.
#[derive(Debug)]
pub(crate) struct Line {
    id: u64,
    probes: Probes,
    questions: mpsc::Receiver<Question>,
    /// Number of the question under way, and who waits.
    asked: Option<(u64, oneshot::Sender<ProbeReport>)>,
    count: u64,
}

impl Line {
    /// The next question, to be sent. A question that was not answered yet is given up for it.
    ///
    /// # Cancel safety
    /// Safe: nothing is taken before it returns.
    pub(crate) async fn question(&mut self) -> v1::Probe {
        let Some(Question { mut probe, answer }) = self.questions.recv().await else {
            // The sender lives in `probes` until this line is dropped.
            return std::future::pending().await;
        };
        self.count += 1;
        probe.id = self.count;
        self.asked = Some((self.count, answer));
        probe
    }

    /// Takes an answer; one that nobody waits for is dropped.
    pub(crate) fn answered(&mut self, report: ProbeReport) {
        if let Some((_, answer)) = self.asked.take_if(|(id, _)| *id == report.id) {
            let _gone = answer.send(report);
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.probes.lock().lines.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty(_: &WorkloadName) -> v1::Probe {
        v1::Probe::default()
    }

    fn all(_: &WorkloadName, _: &InstanceId) -> bool {
        true
    }

    fn attach(probes: &Probes, number: u8) -> Line {
        probes.attach("inference/llm".parse().unwrap(), InstanceId([number; 16]))
    }

    #[tokio::test(start_paused = true)]
    async fn every_connected_sidecar_is_named_whether_it_answers_or_not() {
        let probes = Probes::default();
        let (mut answers, mut silent, gone) =
            (attach(&probes, 1), attach(&probes, 2), attach(&probes, 3));
        let left = attach(&probes, 4);
        drop(left);
        let conversation = async {
            let probe = answers.question().await;
            // A stale answer is nobody's.
            answers.answered(ProbeReport::failed(probe.id + 1, "another"));
            answers.answered(ProbeReport::new(probe.id, []));
            silent.question().await;
            drop(gone);
            std::future::pending::<()>().await
        };
        let reports = tokio::select! {
            reports = probes.ask(all, empty, Duration::from_secs(1)) => reports,
            () = conversation => unreachable!(),
        };
        let of = |number: u8| {
            let held = reports.iter().find(|one| one.instance.0[0] == number);
            held.map(|one| {
                one.report
                    .as_ref()
                    .map(|report| report.total)
                    .map_err(|why| *why)
            })
        };
        assert_eq!(of(1), Some(Ok(0)));
        assert_eq!(of(2), Some(Err(Unanswered::Silent)));
        assert_eq!(of(3), Some(Err(Unanswered::Gone)));
        assert_eq!(of(4), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sidecar_with_a_question_in_its_queue_is_busy() {
        let probes = Probes::default();
        let _line = attach(&probes, 1);
        let first = probes.ask(all, empty, Duration::from_secs(1)).await;
        assert_eq!(first[0].report, Err(Unanswered::Silent));
        let second = probes.ask(all, empty, Duration::from_secs(1)).await;
        assert_eq!(second[0].report, Err(Unanswered::Busy));
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_who_ask_at_once_both_get_their_answers() {
        let probes = Probes::default();
        let mut line = attach(&probes, 1);
        let asking = |probes: &Probes| {
            let probes = probes.clone();
            tokio::spawn(async move { probes.ask(all, empty, Duration::from_secs(1)).await })
        };
        let (first, second) = (asking(&probes), asking(&probes));
        for _ in 0..2 {
            let probe = line.question().await;
            // The other one asks meanwhile.
            tokio::task::yield_now().await;
            line.answered(ProbeReport::new(probe.id, []));
        }
        for asked in [first, second] {
            assert!(asked.await.unwrap()[0].report.is_ok());
        }
    }
}
