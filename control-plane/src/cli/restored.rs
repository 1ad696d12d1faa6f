//! `vouchsafe restored`: says of a data folder that was brought back from a copy that it is the one that counts.

use super::change::{self, Limits, MaxDrop, Telling};
use super::{Ask, Outcome};

/// Why.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Arguments {
    /// Why: it stands in the record.
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    ask: Ask,
}

impl Arguments {
    pub(super) async fn run(&self) -> Outcome {
        // Everybody is sent all of the mesh state, and what is not allowed by it ends: that is what is asked for.
        let limits = Limits {
            max_drop: MaxDrop {
                number: 100,
                is_percent: true,
            },
            allow_unanswered: true,
            replace: false,
            dry_run: false,
        };
        let request = limits.request("restored", &self.reason);
        let response = match change::ask(request, &self.ask).await {
            Ok(response) => response,
            Err(outcome) => return outcome,
        };
        let headline = "what this data folder holds counts from now on, in an epoch of its own; what was revoked, enrolled or spent since the copy was made is not known to it";
        let telling = Telling {
            is_dry_run: false,
            headline,
            warnings: &[],
        };
        change::show(&response, &telling, self.ask.output)
    }
}
