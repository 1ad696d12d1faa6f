//! `vouchsafe serve` and `vouchsafe init`.

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use vouchsafe_config::control_plane::ControlPlaneConfig;
use vouchsafe_config::load;

use super::{DEFAULT_DATA, Outcome};
use crate::app;

/// What a control plane is told.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Folder of its state; overrides the configuration. Made with mode 0700 at the first start.
    #[arg(long)]
    data: Option<PathBuf>,
    /// `control-plane.yaml`; without it, defaults.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Folder of policy documents; overrides the configuration.
    #[arg(long)]
    policy: Option<PathBuf>,
    /// Where sidecars connect; overrides the configuration.
    #[arg(long)]
    listen: Option<SocketAddr>,
}

impl Arguments {
    fn config(&self) -> Result<ControlPlaneConfig, Outcome> {
        let mut config = match &self.config {
            Some(file) => {
                let (config, warnings) = load::control_plane(file).map_err(|problems| Outcome {
                    status: 1,
                    output: String::new(),
                    error: problems.to_string(),
                })?;
                for warning in warnings {
                    tracing::warn!(warning = %warning, "configuration");
                }
                match &self.data {
                    // A policy folder inside the data folder moves with it.
                    Some(data) if config.policy == config.data.join("policy") => {
                        ControlPlaneConfig {
                            policy: data.join("policy"),
                            data: data.clone(),
                            ..config
                        }
                    }
                    Some(data) => ControlPlaneConfig {
                        data: data.clone(),
                        ..config
                    },
                    None => config,
                }
            }
            None => {
                let data = self.data.clone();
                ControlPlaneConfig::new(data.unwrap_or_else(|| DEFAULT_DATA.into()))
            }
        };
        if let Some(policy) = &self.policy {
            config.policy = policy.clone();
        }
        if let Some(listen) = self.listen {
            config.listen = listen;
        }
        Ok(config)
    }
}

/// Serves until SIGTERM or SIGINT.
pub(super) async fn serve(arguments: Arguments) -> Outcome {
    let config = match arguments.config() {
        Ok(config) => config,
        Err(outcome) => return outcome,
    };
    // JSON lines on standard error: one event, one line, for whatever collects logs.
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_env_filter(EnvFilter::new(config.log.as_str()))
        .with_writer(std::io::stderr)
        .init();
    let signals = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    );
    let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
        return Outcome::failed("failed to listen for signals");
    };
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    match app::run(config, shutdown).await {
        Ok(()) => Outcome::default(),
        Err(error) => Outcome::failed(app::explain(&error)),
    }
}

/// Makes what a first start makes, and prints the pin.
pub(super) async fn init(arguments: Arguments) -> Outcome {
    let config = match arguments.config() {
        Ok(config) => config,
        Err(outcome) => return outcome,
    };
    match app::init(&config).await {
        Ok(pin) => Outcome::good(format!("{}\n", hex::encode(pin))),
        Err(error) => Outcome::failed(app::explain(&error)),
    }
}
