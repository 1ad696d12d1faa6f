//! Whether the sidecar lives, whether it is ready, what it counts, and how its application is.
//!
//! `livez` says only that the process answers: a sidecar that waits for its certificate must not be killed for it.
//! `readyz` says whether requests can pass. The probes listener answers the paths that the Workload declares, by asking
//! the application itself; nothing but the status leaves, so that it is no way around policy.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prometheus::{Registry, TextEncoder};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use vouchsafe_config::policy::{Policy, Protocol};
use vouchsafe_config::proxy::{InboundPort, ProxyConfig, Upstream, UpstreamHttp};

use crate::drain::{DrainSignal, Phase};
use crate::plain_http::{Answer, Request, answer, text};
use crate::state::State;

/// What `readyz` is made of.
#[derive(Debug)]
pub struct Readiness {
    state: Arc<State>,
    drain: DrainSignal,
    policy: watch::Sender<bool>,
}

impl Readiness {
    /// Not ready yet.
    pub fn new(state: Arc<State>, drain: DrainSignal) -> Self {
        Self {
            state,
            drain,
            policy: watch::Sender::new(false),
        }
    }

    /// Says that a first policy is in force.
    pub fn policy_is_there(&self) {
        self.policy.send_replace(true);
    }

    /// Says whether there is a policy, now and when there is one.
    pub fn has_policy(&self) -> watch::Receiver<bool> {
        self.policy.subscribe()
    }

    /// What is still missing; `None` when requests can pass.
    pub fn missing(&self) -> Option<&'static str> {
        if self.drain.phase() != Phase::Serving {
            Some("draining")
        } else if self.state.identity.load().is_none() {
            Some("no certificate")
        } else if !*self.policy.borrow() {
            Some("no policy")
        } else if self.state.policy.load().is_stale {
            Some("nothing heard from the control plane for too long")
        } else {
            None
        }
    }
}

/// `/livez`, `/readyz` and `/metrics`.
#[derive(Clone, Debug)]
pub struct Monitoring {
    /// Of this sidecar.
    pub readiness: Arc<Readiness>,
    /// All metrics.
    pub registry: Registry,
}

impl Monitoring {
    /// Answers one request.
    pub fn answer(&self, request: &Request) -> Answer {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        match request.uri().path() {
            "/livez" => text(StatusCode::OK, "ok\n"),
            "/readyz" => match self.readiness.missing() {
                None => text(StatusCode::OK, "ok\n"),
                Some(missing) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{missing}\n")),
            },
            "/metrics" => self.metrics(),
            _ => text(
                StatusCode::NOT_FOUND,
                "here are /livez, /readyz and /metrics\n",
            ),
        }
    }

    fn metrics(&self) -> Answer {
        match TextEncoder::new().encode_to_string(&self.registry.gather()) {
            Ok(body) => answer(StatusCode::OK, prometheus::TEXT_FORMAT, body),
            Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "failed to encode\n"),
        }
    }
}

/// The probes listener.
#[derive(Clone, Debug)]
pub struct Probes {
    /// Whose ports.
    pub config: Arc<ProxyConfig>,
    /// Which paths, by the Workload document in force.
    pub state: Arc<State>,
}

impl Probes {
    /// Answers one request.
    pub async fn answer(&self, request: Request) -> Answer {
        if *request.method() != Method::GET {
            return refused(StatusCode::METHOD_NOT_ALLOWED, "method");
        }
        let path = request.uri().path();
        let Some(port) = self.port_that_declares(path) else {
            return refused(StatusCode::NOT_FOUND, "not_a_probe");
        };
        let probe = ask(&port, path, self.config.limits.connect);
        match tokio::time::timeout(PROBE_DEADLINE, probe).await {
            Ok(Some(status)) => text(status, ""),
            Ok(None) => refused(StatusCode::SERVICE_UNAVAILABLE, "unreachable"),
            Err(_) => refused(StatusCode::GATEWAY_TIMEOUT, "timeout"),
        }
    }

    /// The first local port whose declaration lists this path.
    fn port_that_declares(&self, path: &str) -> Option<InboundPort> {
        let epoch = self.state.policy.load();
        let declares = |port: &&InboundPort| declares(&epoch.policy, &self.config, port, path);
        let ports = self
            .config
            .inbound
            .iter()
            .flat_map(|listener| &listener.ports);
        ports.into_iter().find(declares).cloned()
    }
}

fn declares(policy: &Policy, config: &ProxyConfig, port: &InboundPort, path: &str) -> bool {
    policy
        .port(&config.workload, &port.name)
        .is_some_and(|declared| {
            declared.protocol == Protocol::Http && declared.probes.iter().any(|probe| probe == path)
        })
}

/// Asks the application; `None` when it does not answer.
async fn ask(port: &InboundPort, path: &str, connect: Duration) -> Option<StatusCode> {
    match &port.upstream {
        Upstream::Tcp(address) => {
            let socket = tokio::time::timeout(connect, TcpStream::connect(address)).await;
            request(socket.ok()?.ok()?, port.upstream_http, path).await
        }
        Upstream::Unix(path_of_socket) => {
            let socket = tokio::time::timeout(connect, UnixStream::connect(path_of_socket)).await;
            request(socket.ok()?.ok()?, port.upstream_http, path).await
        }
        // A range of numbers has no one application to ask.
        Upstream::SamePort(_) => None,
    }
}

async fn request<S>(socket: S, version: UpstreamHttp, path: &str) -> Option<StatusCode>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let socket = TokioIo::new(socket);
    let mut request = http::Request::new(Empty::<Bytes>::new());
    let host = HeaderValue::from_static("localhost");
    request.headers_mut().insert(header::HOST, host);
    let response = match version {
        UpstreamHttp::Auto | UpstreamHttp::Http1 => {
            *request.uri_mut() = path.parse().ok()?;
            let (mut sender, connection) = http1::handshake(socket).await.ok()?;
            // The connection is driven until the head of the response is there, and then dropped.
            tokio::select! {
                response = sender.send_request(request) => response.ok()?,
                _ = connection => return None,
            }
        }
        UpstreamHttp::Http2 => {
            let authority = format!("http://localhost{path}");
            *request.uri_mut() = authority.parse::<Uri>().ok()?;
            let (mut sender, connection) =
                http2::handshake(TokioExecutor::new(), socket).await.ok()?;
            tokio::select! {
                response = sender.send_request(request) => response.ok()?,
                _ = connection => return None,
            }
        }
    };
    Some(response.status())
}

/// An answer of the sidecar itself, told apart from the application's by its reason.
fn refused(status: StatusCode, reason: &'static str) -> Answer {
    let mut answer = text(status, "");
    answer
        .headers_mut()
        .insert("vouchsafe-reason", HeaderValue::from_static(reason));
    answer
}

/// Longer than any probe of an orchestrator waits by default (Kubernetes: 1 s).
const PROBE_DEADLINE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use http::Response;
    use prometheus::IntCounter;
    use tokio::net::TcpListener;
    use vouchsafe_config::set::PolicySet;
    use vouchsafe_config::source::Source;

    use super::*;
    use crate::drain::Drain;
    use crate::plain_http::client::fetch;
    use crate::plain_http::{Door, serve};
    use crate::state::PolicyEpoch;

    async fn open<H, F>(handler: H) -> SocketAddr
    where
        H: Fn(Request) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(Door::Tcp(listener), handler));
        address
    }

    async fn ask(address: SocketAddr, method: &str, path: &str) -> Response<Bytes> {
        fetch(TcpStream::connect(address).await.unwrap(), method, path).await
    }

    #[tokio::test]
    async fn a_sidecar_without_a_certificate_lives_and_is_not_ready() {
        let registry = Registry::new();
        let counter = IntCounter::new("vouchsafe_test_total", "A test.").unwrap();
        registry.register(Box::new(counter)).unwrap();
        let drain = Drain::new(Duration::ZERO);
        let state = Arc::new(State::default());
        let readiness = Arc::new(Readiness::new(Arc::clone(&state), drain.signal()));
        let monitoring = Monitoring {
            readiness: Arc::clone(&readiness),
            registry,
        };
        let address = open(move |request| std::future::ready(monitoring.answer(&request))).await;
        assert_eq!(ask(address, "GET", "/livez").await.status(), StatusCode::OK);
        let not_ready = ask(address, "GET", "/readyz").await;
        assert_eq!(not_ready.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(not_ready.body(), "no certificate\n");
        let metrics = ask(address, "GET", "/metrics").await;
        assert!(
            metrics
                .body()
                .starts_with(b"# HELP vouchsafe_test_total A test.")
        );
        assert_eq!(
            ask(address, "POST", "/livez").await.status(),
            StatusCode::METHOD_NOT_ALLOWED
        );
        assert_eq!(
            ask(address, "GET", "/config_dump").await.status(),
            StatusCode::NOT_FOUND
        );
        drain.run(std::future::pending()).await;
        assert_eq!(ask(address, "GET", "/livez").await.status(), StatusCode::OK);
        assert_eq!(ask(address, "GET", "/readyz").await.body(), "draining\n");
    }

    /// A sidecar whose application listens at `application` and declares the probe `/health`.
    async fn probes(application: SocketAddr) -> SocketAddr {
        let document = format!(
            "apiVersion: vouchsafe.dev/v1alpha1\nkind: Workload\nmetadata: {{name: llm, namespace: inference}}\n\
             spec: {{profile: any, members: {{nodes: [one]}}, \
             ports: [{{name: openai, port: {}, protocol: http, probes: [/health]}}]}}\n",
            application.port()
        );
        let config = format!(
            "apiVersion: vouchsafe.dev/v1alpha1\nkind: Proxy\nspec:\n  trust_domain: factory.example\n  \
             workload: inference/llm\n  identity: {{files: {{chain: c, key: k, bundle: [{{file: b}}], policy: p}}}}\n  \
             inbound: [{{listen: \"127.0.0.1:0\", ports: [{{name: openai, upstream: \"{application}\"}}]}}]\n"
        );
        let source = Source::new("proxy.yaml", config);
        let (config, _) = ProxyConfig::parse(source, std::path::Path::new("/"))
            .unwrap_or_else(|error| panic!("{error}"));
        let state = Arc::new(State::default());
        let documents = [("policy/Workload/inference/llm", document.as_str())];
        let policy = PolicySet::compile_slice(&config.trust_domain, documents)
            .unwrap_or_else(|error| panic!("{error}"));
        state.policy.store(Arc::new(PolicyEpoch {
            policy: Arc::new(policy),
            ..PolicyEpoch::default()
        }));
        let probes = Probes {
            config: Arc::new(config),
            state,
        };
        open(move |request| {
            let probes = probes.clone();
            async move { probes.answer(request).await }
        })
        .await
    }

    #[tokio::test]
    async fn a_declared_probe_asks_the_application_and_only_the_status_leaves() {
        let application = open(|request: Request| async move {
            assert_eq!(request.uri().path(), "/health");
            assert_eq!(request.uri().query(), None);
            let mut answer = text(StatusCode::IM_A_TEAPOT, "a secret");
            answer
                .headers_mut()
                .insert("x-secret", HeaderValue::from_static("yes"));
            answer
        })
        .await;
        let address = probes(application).await;
        let answer = ask(address, "GET", "/health?token=x").await;
        assert_eq!(answer.status(), StatusCode::IM_A_TEAPOT);
        assert!(answer.body().is_empty());
        assert!(!answer.headers().contains_key("x-secret"));
        for (method, path, status) in [
            ("POST", "/health", StatusCode::METHOD_NOT_ALLOWED),
            ("GET", "/v1/models", StatusCode::NOT_FOUND),
            ("GET", "/health/", StatusCode::NOT_FOUND),
            ("GET", "//health", StatusCode::NOT_FOUND),
        ] {
            assert_eq!(
                ask(address, method, path).await.status(),
                status,
                "{method} {path}"
            );
        }
    }

    #[tokio::test]
    async fn a_dead_application_is_told_apart_by_its_reason() {
        // Bound and not listening: nobody else gets the port meanwhile.
        let held = tokio::net::TcpSocket::new_v4().unwrap();
        held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let application = held.local_addr().unwrap();
        let answer = ask(probes(application).await, "GET", "/health").await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers()["vouchsafe-reason"], "unreachable");
    }
}
