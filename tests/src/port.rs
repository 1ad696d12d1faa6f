//! Free loopback ports for programs that must be told one.
//!
//! The kernel's own choice (port 0) is from the range of outgoing connections, so that a port found free may be gone
//! before the program binds it. These come from below that range and above the default ports of our own programs, and
//! each test process begins at another place.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

const FIRST: u32 = 16_000;
const COUNT: u32 = 14_000;

static NEXT: LazyLock<AtomicU32> =
    LazyLock::new(|| AtomicU32::new(std::process::id().wrapping_mul(211) % COUNT));

/// A loopback address that nothing listens on, and that this process gives out once.
pub fn free() -> SocketAddr {
    for _ in 0..COUNT {
        let number = FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = u16::try_from(number).expect("the range lies below 65,536");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}
