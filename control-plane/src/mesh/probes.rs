//! Questions to connected sidecars: what would fall if a change were made.
//!
//! A question is put on every stream at once and waits for none; how long the answers are waited for is the asker's
//! affair. A sidecar that does not answer is named, so that a report never looks whole when it is not.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use vouchsafe_api::convert::mesh_state::probe::ProbeReport;
use vouchsafe_api::v1;
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_attestation::result::InstanceId;

use super::frame::{self, Frame};

/// Connected sidecars that can be asked.
#[derive(Clone, Debug, Default)]
pub struct Probes {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    lines: HashMap<u64, Attached>,
    /// Numbers lines and questions.
    next: u64,
}

impl Inner {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

#[derive(Clone, Debug)]
struct Attached {
    workload: WorkloadName,
    instance: InstanceId,
    /// Boxed: a channel makes room for 32 at once, on each stream.
    questions: mpsc::Sender<Box<Question>>,
}

#[derive(Debug)]
struct Question {
    id: u64,
    frame: Frame,
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
    /// It takes nothing in: earlier questions wait still.
    #[error("it is busy with earlier questions")]
    Busy,
    /// Its stream ended meanwhile.
    #[error("its stream ended")]
    Gone,
    /// It did not answer in time.
    #[error("it did not answer in time")]
    Silent,
}

/// Sidecars that were asked, in the order of workloads and instances, with what they have said so far.
#[derive(Debug)]
pub struct Asked {
    sidecars: Vec<(SidecarReport, Option<oneshot::Receiver<ProbeReport>>)>,
}

impl Asked {
    /// Waits until all have answered, or `deadline` is there.
    ///
    /// # Cancel safety
    /// Safe: what has been said stays, and what was not can be waited for again.
    pub async fn wait(&mut self, deadline: Instant) {
        for (said, waits) in &mut self.sidecars {
            let Some(answer) = waits else { continue };
            said.report = match tokio::time::timeout_at(deadline, answer).await {
                Ok(Ok(report)) => Ok(report),
                Ok(Err(_)) => Err(Unanswered::Gone),
                Err(_) => continue,
            };
            *waits = None;
        }
    }

    /// What each has said so far.
    pub fn reports(&self) -> impl Iterator<Item = &SidecarReport> {
        self.sidecars.iter().map(|(said, _)| said)
    }

    /// The same for good: nothing is waited for any more.
    pub fn into_reports(self) -> Vec<SidecarReport> {
        self.sidecars.into_iter().map(|(said, _)| said).collect()
    }
}

impl Probes {
    /// Asks every connected sidecar of `whom`, each with what `question` makes for its workload; the number is set here.
    /// Nobody has answered when it returns, and each such sidecar has an entry.
    pub fn ask(
        &self,
        whom: impl Fn(&WorkloadName, &InstanceId) -> bool,
        mut question: impl FnMut(&WorkloadName) -> Arc<v1::Probe>,
    ) -> Asked {
        let (id, mut lines) = {
            let mut inner = self.lock();
            let lines: Vec<Attached> = inner.lines.values().cloned().collect();
            (inner.number(), lines)
        };
        lines.retain(|line| whom(&line.workload, &line.instance));
        lines.sort_by(|one, other| {
            (&one.workload, one.instance.0).cmp(&(&other.workload, other.instance.0))
        });
        // Sidecars that are asked the same share its bytes.
        let mut encoded: HashMap<*const v1::Probe, (Arc<v1::Probe>, Frame)> = HashMap::new();
        let asked = lines.into_iter().map(|line| {
            let probe = question(&line.workload);
            let (_, frame) = { encoded.entry(Arc::as_ptr(&probe)) }.or_insert_with(|| {
                let numbered = v1::Probe {
                    id,
                    ..(*probe).clone()
                };
                (probe, frame::probe(numbered))
            });
            let (answer, answered) = oneshot::channel();
            let frame = frame.clone();
            let sent = line
                .questions
                .try_send(Box::new(Question { id, frame, answer }));
            let said = SidecarReport {
                workload: line.workload,
                instance: line.instance,
                report: Err(sent.as_ref().map_or_else(unsent, |()| Unanswered::Silent)),
            };
            (said, sent.is_ok().then_some(answered))
        });
        Asked {
            sidecars: asked.collect(),
        }
    }

    /// Workloads of connected sidecars of `whom`.
    pub fn workloads(
        &self,
        whom: impl Fn(&WorkloadName, &InstanceId) -> bool,
    ) -> BTreeSet<WorkloadName> {
        let inner = self.lock();
        let lines = inner.lines.values();
        let wanted = lines.filter(|line| whom(&line.workload, &line.instance));
        wanted.map(|line| line.workload.clone()).collect()
    }

    /// Makes a stream known.
    pub(crate) fn attach(&self, workload: WorkloadName, instance: InstanceId) -> Line {
        let (questions, receiver) = mpsc::channel(MAX_QUESTIONS);
        let mut inner = self.lock();
        let id = inner.number();
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
            asked: Vec::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change is a single insertion or removal.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unsent(error: &mpsc::error::TrySendError<Box<Question>>) -> Unanswered {
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
    questions: mpsc::Receiver<Box<Question>>,
    /// Numbers of the questions under way, oldest first, and who waits.
    asked: Vec<(u64, oneshot::Sender<ProbeReport>)>,
}

impl Line {
    /// The next question, to be sent. One that nobody waits for any more is none; of more than a few that were not
    /// answered the oldest is given up.
    ///
    /// # Cancel safety
    /// Safe: nothing is taken before it returns.
    pub(crate) async fn question(&mut self) -> Frame {
        loop {
            let Some(question) = self.questions.recv().await else {
                // The sender lives in `probes` until this line is dropped.
                return std::future::pending().await;
            };
            let Question { id, frame, answer } = *question;
            if answer.is_closed() {
                continue;
            }
            self.asked.retain(|(_, waits)| !waits.is_closed());
            if self.asked.len() >= MAX_QUESTIONS {
                self.asked.remove(0);
            }
            self.asked.push((id, answer));
            return frame;
        }
    }

    /// Takes an answer; one that nobody waits for is dropped.
    pub(crate) fn answered(&mut self, report: ProbeReport) {
        let place = self.asked.iter().position(|(id, _)| *id == report.id);
        if let Some(place) = place {
            let (_, answer) = self.asked.remove(place);
            let _gone = answer.send(report);
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.probes.lock().lines.remove(&self.id);
    }
}

/// Questions that wait on one stream: people ask, and an urgent one waits for no other.
const MAX_QUESTIONS: usize = 4;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prost::Message;
    use vouchsafe_api::v1::watch_response;

    use super::*;

    fn empty(_: &WorkloadName) -> Arc<v1::Probe> {
        Arc::default()
    }

    fn all(_: &WorkloadName, _: &InstanceId) -> bool {
        true
    }

    fn attach(probes: &Probes, number: u8) -> Line {
        probes.attach("inference/llm".parse().unwrap(), InstanceId([number; 16]))
    }

    fn number(frame: &Frame) -> u64 {
        let decoded = v1::WatchResponse::decode(frame.bytes.clone()).unwrap();
        match decoded.message {
            Some(watch_response::Message::Probe(probe)) => probe.id,
            other => panic!("{other:?}"),
        }
    }

    fn of(asked: &Asked, number: u8) -> Option<Result<u64, Unanswered>> {
        let mut reports = asked.reports();
        let found = reports.find(|one| one.instance.0[0] == number)?;
        Some({ found.report.as_ref() }.map_or_else(|why| Err(*why), |said| Ok(said.total)))
    }

    async fn wait(asked: &mut Asked) {
        asked.wait(Instant::now() + Duration::from_secs(1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn every_connected_sidecar_is_named_whether_it_answers_or_not() {
        let probes = Probes::default();
        let (mut answers, mut silent, gone) =
            (attach(&probes, 1), attach(&probes, 2), attach(&probes, 3));
        let left = attach(&probes, 4);
        drop(left);
        let mut asked = probes.ask(all, empty);
        let id = number(&answers.question().await);
        // A stale answer is nobody's.
        answers.answered(ProbeReport::failed(id + 1, "another"));
        answers.answered(ProbeReport::new(id, []));
        silent.question().await;
        drop(gone);
        wait(&mut asked).await;
        assert_eq!(of(&asked, 1), Some(Ok(0)));
        assert_eq!(of(&asked, 2), Some(Err(Unanswered::Silent)));
        assert_eq!(of(&asked, 3), Some(Err(Unanswered::Gone)));
        assert_eq!(of(&asked, 4), None);
        // Who answers late is heard by who goes on waiting.
        silent.answered(ProbeReport::new(id, []));
        wait(&mut asked).await;
        assert_eq!(of(&asked, 2), Some(Ok(0)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_sidecar_that_takes_no_questions_in_is_busy() {
        let probes = Probes::default();
        let _line = attach(&probes, 1);
        for _ in 0..MAX_QUESTIONS {
            let mut asked = probes.ask(all, empty);
            wait(&mut asked).await;
            assert_eq!(of(&asked, 1), Some(Err(Unanswered::Silent)));
        }
        let asked = probes.ask(all, empty);
        assert_eq!(of(&asked, 1), Some(Err(Unanswered::Busy)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_that_was_given_up_is_not_sent_and_those_that_wait_are_bounded() {
        let probes = Probes::default();
        let mut line = attach(&probes, 1);
        drop(probes.ask(all, empty));
        let mut kept = Vec::new();
        for _ in 0..=MAX_QUESTIONS {
            let asked = probes.ask(all, empty);
            let id = number(&line.question().await);
            kept.push((id, asked));
        }
        assert_eq!(line.asked.len(), MAX_QUESTIONS);
        for (id, _) in &kept {
            line.answered(ProbeReport::new(*id, []));
        }
        for (place, (_, asked)) in kept.iter_mut().enumerate() {
            wait(asked).await;
            let expected = match place {
                0 => Err(Unanswered::Gone),
                _ => Ok(0),
            };
            assert_eq!(of(asked, 1), Some(expected), "{place}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_who_ask_at_once_both_get_their_answers() {
        let probes = Probes::default();
        let mut line = attach(&probes, 1);
        let (mut first, mut second) = (probes.ask(all, empty), probes.ask(all, empty));
        let ids = [
            number(&line.question().await),
            number(&line.question().await),
        ];
        for id in ids.into_iter().rev() {
            line.answered(ProbeReport::new(id, []));
        }
        for asked in [&mut first, &mut second] {
            wait(asked).await;
            assert_eq!(of(asked, 1), Some(Ok(0)));
        }
    }
}
