//! When sidecars have applied a revision, by what they log; and how many of how long.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Span, Subscriber};
use tracing_subscriber::layer::{Context as Layered, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

/// Revisions that were applied in this process: which, by whom, when.
#[derive(Clone, Debug, Default)]
pub(crate) struct Applied {
    seen: Arc<Mutex<Vec<(u64, usize, SystemTime)>>>,
}

/// The number of the sidecar whose tasks run within a span.
#[derive(Clone, Copy, Debug)]
struct Whose(usize);

/// The span of the tasks of one sidecar.
pub(crate) fn span_of(sidecar: usize) -> Span {
    tracing::info_span!(target: SPAN, "sidecar", number = sidecar)
}

impl Applied {
    /// Listens to what the sidecars of this process log.
    pub(crate) fn install() -> Result<Self> {
        let applied = Self::default();
        let subscriber = tracing_subscriber::registry().with(applied.clone());
        tracing::subscriber::set_global_default(subscriber).context("another one listens")?;
        Ok(applied)
    }

    /// When each of `sidecars` sidecars applied a revision; one may be left out.
    pub(crate) async fn of(
        &self,
        sequence: u64,
        sidecars: usize,
        but: Option<usize>,
    ) -> Result<BTreeMap<usize, SystemTime>> {
        let wanted = sidecars.saturating_sub(usize::from(but.is_some()));
        let deadline = std::time::Instant::now() + DEADLINE;
        loop {
            let times: BTreeMap<usize, SystemTime> = self
                .seen()
                .iter()
                .filter(|(applied, sidecar, _)| *applied == sequence && Some(*sidecar) != but)
                .map(|(_, sidecar, time)| (*sidecar, *time))
                .collect();
            if times.len() >= wanted {
                return Ok(times);
            }
            if std::time::Instant::now() > deadline {
                bail!("{} of {wanted} sidecars applied 1.{sequence}", times.len());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Forgets what was seen, so that looking costs no more with each round.
    pub(crate) fn forget(&self) {
        self.seen().clear();
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Vec<(u64, usize, SystemTime)>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Subscriber + for<'s> LookupSpan<'s>> Layer<S> for Applied {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Layered<'_, S>) {
        if attributes.metadata().target() != SPAN {
            return;
        }
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id)
            && let Some(number) = fields.number
        {
            span.extensions_mut().insert(Whose(number));
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the same clock as the control plane's log, on the same machine"
    )]
    fn on_event(&self, event: &Event<'_>, context: Layered<'_, S>) {
        if event.metadata().target() != "vouchsafe_proxy::mesh_state::stream" {
            return;
        }
        let now = SystemTime::now();
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut spans = context.event_scope(event).into_iter().flatten();
        let whose = spans.find_map(|span| span.extensions().get::<Whose>().copied());
        if fields.message == "mesh state applied"
            && let Some(Whose(sidecar)) = whose
            && let Some((_, sequence)) = fields.revision.split_once('.')
            && let Ok(sequence) = sequence.parse()
        {
            self.seen().push((sequence, sidecar, now));
        }
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    revision: String,
    number: Option<usize>,
}

impl Visit for Fields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "number" {
            self.number = usize::try_from(value).ok();
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            "revision" => self.revision = format!("{value:?}"),
            _ => {}
        }
    }
}

/// One change that reached everybody.
#[derive(Debug)]
pub(crate) struct Round {
    /// How long each whom it concerns took to apply it.
    pub(crate) concerned: Vec<Duration>,
    /// From the file that was written to the policy that is in force; nothing where no file was.
    pub(crate) noticed: Option<Duration>,
    /// Processor time of the control plane beyond what it takes at rest, until all had it.
    pub(crate) control_plane: Duration,
    /// The same of all sidecars.
    pub(crate) sidecars: Duration,
}

/// The figures of some rounds: the median of each figure, and the range of the slowest.
pub(crate) fn summary(rounds: &mut [Round]) -> Value {
    for round in &mut *rounds {
        round.concerned.sort_unstable();
    }
    let median = |figure: &dyn Fn(&Round) -> Duration| {
        let mut all: Vec<Duration> = rounds.iter().map(figure).collect();
        all.sort_unstable();
        quantile(&all, 50)
    };
    let longest = rounds.iter().map(|round| quantile(&round.concerned, 100));
    let mut summary = json!({
        "rounds": rounds.len(),
        "sidecars": rounds.first().map_or(0, |round| round.concerned.len()),
        "p50_ms": ms(median(&|round| quantile(&round.concerned, 50))),
        "p99_ms": ms(median(&|round| quantile(&round.concerned, 99))),
        "max_ms": ms(median(&|round| quantile(&round.concerned, 100))),
        "worst_round_max_ms": ms(longest.max().unwrap_or_default()),
        "control_plane_cpu_ms": ms(median(&|round| round.control_plane)),
        "sidecars_cpu_ms": ms(median(&|round| round.sidecars)),
    });
    if rounds.iter().any(|round| round.noticed.is_some())
        && let Some(summary) = summary.as_object_mut()
    {
        let noticed = median(&|round| round.noticed.unwrap_or_default());
        summary.insert("written_to_in_force_ms".to_owned(), json!(ms(noticed)));
    }
    summary
}

/// The value that so many of a hundred are not above.
pub(crate) fn quantile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(rank).copied().unwrap_or_default()
}

pub(crate) fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}

/// Target of the spans of sidecars.
const SPAN: &str = "simulation";
/// Far more than any change may take.
const DEADLINE: Duration = Duration::from_secs(60);
