//! Load generator, backend and certificates of `./compare`.
//!
//! One current-thread runtime, so that client and backend can each be held on a core of their own. Every command is
//! bounded in connections and time, and prints one JSON object; latencies are in microseconds.
//!
//! # Why
//! Debian's load generators have no open loop that is corrected for coordinated omission, and none has all of HTTP/1.1,
//! HTTP/2, gRPC's calls, server-sent events, bulk and handshakes with one way of counting processor time; and nobody
//! else's can attest.

mod backend;
mod bulk;
mod certificates;
mod grpc;
mod handshake;
mod histogram;
mod http1;
mod http2;
mod idle;
mod issue;
mod measure;
mod requests;
mod schedule;
mod sse;
mod timer;

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::http2::Unit;

/// Makes load against a proxy, or plays its backend.
#[derive(Debug, Parser)]
#[command(name = "vouchsafe-load", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answers HTTP/1.1, HTTP/2 and gRPC-shaped requests on one port until standard input ends.
    Backend {
        /// Where to listen; port 0 picks a free one. The address is printed as JSON.
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
    },
    /// Makes a root, an authority below it and two leaves (client, server) with SPIFFE IDs, all P-256.
    Certificates {
        /// Folder that receives `ca.pem`, `bundle.pem`, `{client,server}.{pem,key,both}`.
        #[arg(long)]
        folder: PathBuf,
        /// Trust domain of the SPIFFE IDs.
        #[arg(long, default_value = "bench.test")]
        trust_domain: String,
    },
    /// Small HTTP/1.1 requests: as fast as answers come, or at a fixed rate.
    Http {
        #[command(flatten)]
        load: Load,
        /// Requests per second; without it each connection sends as soon as it has its answer.
        #[arg(long)]
        rate: Option<u64>,
        /// A new connection for each request.
        #[arg(long, conflicts_with = "rate")]
        close: bool,
    },
    /// Small GETs over HTTP/2 with prior knowledge.
    Http2 {
        #[command(flatten)]
        load: Load,
        #[command(flatten)]
        flight: Flight,
    },
    /// Unary calls as gRPC sends them, over HTTP/2 with prior knowledge.
    Grpc {
        #[command(flatten)]
        load: Load,
        #[command(flatten)]
        flight: Flight,
    },
    /// Downloads without end, one on each connection; counts bytes.
    Bulk {
        #[command(flatten)]
        load: Load,
        /// The backend sends from a file and the client has what comes dropped, both without a copy.
        #[arg(long)]
        cheap: bool,
    },
    /// Server-sent events, one stream on each connection; latency is from the backend's write.
    Sse {
        #[command(flatten)]
        load: Load,
        /// Milliseconds between events of one stream.
        #[arg(long, default_value_t = 10)]
        interval: u64,
    },
    /// Opens connections, sends one request on each, prints a line, and holds them until standard input ends.
    Idle {
        #[command(flatten)]
        load: Load,
    },
    /// Full mutual TLS 1.3 handshakes, one after the other on each connection slot.
    Handshake {
        #[command(flatten)]
        load: Load,
        /// Folder that `certificates` made.
        #[arg(long)]
        folder: PathBuf,
        /// Protocol to offer; without it none is offered.
        #[arg(long)]
        alpn: Option<String>,
        /// Offers X25519MLKEM768 before X25519.
        #[arg(long)]
        post_quantum: bool,
    },
    /// Attests to a control plane over and over, one instance in each connection's place; counts certificates.
    Issue {
        #[command(flatten)]
        load: Load,
        #[command(flatten)]
        instances: issue::Instances,
    },
}

/// How requests share an HTTP/2 connection.
#[derive(Clone, Copy, Debug, Args)]
struct Flight {
    /// Most in flight on each connection.
    #[arg(long, default_value_t = 32)]
    streams: usize,
    /// Requests per second on all together; without it the next is sent as soon as one is answered.
    #[arg(long)]
    rate: Option<u64>,
}

/// What every kind of load has.
#[derive(Clone, Debug, Args)]
struct Load {
    /// Where to send it.
    #[arg(long)]
    target: SocketAddr,
    /// Connections at once.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=20_000))]
    connections: u16,
    /// Seconds that count.
    #[arg(long, default_value = "2", value_parser = seconds)]
    seconds: Duration,
    /// Seconds before those that count.
    #[arg(long, default_value = "0.3", value_parser = seconds)]
    warmup: Duration,
    /// Processes whose CPU time is read at the start and the end of the seconds that count.
    #[arg(long, value_delimiter = ',')]
    pids: Vec<u32>,
    /// Ends after so many requests, calls or handshakes in all, or bytes of bulk, instead of after a time; without a
    /// warm-up. For counting instructions: two runs of different length differ by nothing but their units.
    #[arg(long)]
    count: Option<u64>,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // A `LocalSet` lets the tasks of one measurement share it without locks.
    let local = tokio::task::LocalSet::new();
    let report = local.block_on(&runtime, run(cli.command))?;
    if let Some(report) = report {
        writeln!(std::io::stdout(), "{report}")?;
    }
    Ok(())
}

async fn run(command: Command) -> anyhow::Result<Option<serde_json::Value>> {
    let report = match command {
        Command::Backend { listen } => return backend::serve(listen).await.map(|()| None),
        Command::Certificates {
            folder,
            trust_domain,
        } => return certificates::make(&folder, &trust_domain).map(|()| None),
        Command::Idle { load } => return idle::hold(&load).await.map(|()| None),
        Command::Http { load, rate, close } => match rate {
            Some(rate) => requests::open_loop(&load, rate).await?,
            None if close => requests::connection_per_request(&load).await?,
            None => requests::closed_loop(&load).await?,
        },
        Command::Http2 { load, flight } => {
            http2::run(&load, flight.streams, flight.rate, Unit::Small).await?
        }
        Command::Grpc { load, flight } => {
            http2::run(&load, flight.streams, flight.rate, Unit::Call).await?
        }
        Command::Bulk { load, cheap } => bulk::run(&load, cheap).await?,
        Command::Sse { load, interval } => sse::run(&load, interval).await?,
        Command::Handshake {
            load,
            folder,
            alpn,
            post_quantum,
        } => handshake::run(&load, &folder, alpn, post_quantum).await?,
        Command::Issue { load, instances } => issue::run(&load, &instances).await?,
    };
    Ok(Some(report))
}

/// Parses a positive number of seconds of at most an hour.
fn seconds(text: &str) -> Result<Duration, String> {
    text.parse::<f64>()
        .ok()
        .filter(|seconds| (0.0..=3600.0).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("`{text}` is not a number of seconds from 0 to 3600"))
}
