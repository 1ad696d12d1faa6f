//! A cable between programs that can be unplugged: TCP, byte for byte, until it is told to stop.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// Forwards connections; unplugged, it takes them and says nothing.
#[derive(Debug)]
pub struct Cable {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    is_unplugged: bool,
    is_over: bool,
    sockets: Vec<TcpStream>,
}

impl Cable {
    /// A cable to `target`, plugged in.
    ///
    /// # Panics
    /// When there is no free port.
    #[track_caller]
    pub fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared::default());
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                if accepting.lock().is_over {
                    return;
                }
                if let Ok(socket) = socket {
                    let shared = Arc::clone(&accepting);
                    std::thread::spawn(move || shared.carry(socket, target));
                }
            }
        });
        Self { address, shared }
    }

    /// Its near end.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops carrying: what is open stays open, and nothing comes through.
    pub fn unplug(&self) {
        self.shared.lock().is_unplugged = true;
    }

    /// Carries again. What was held back comes through, unless `cut`: then what was open is reset.
    pub fn plug(&self, cut: bool) {
        let mut inner = self.shared.lock();
        inner.is_unplugged = false;
        for socket in inner.sockets.drain(..).filter(|_| cut) {
            let _gone = socket.shutdown(Shutdown::Both);
        }
        self.shared.changed.notify_all();
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        self.plug(true);
        // So that the accepting thread looks.
        let _gone = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder panics")
    }

    /// Waits while it is unplugged.
    fn wait(&self) {
        let inner = self.lock();
        drop(self.changed.wait_while(inner, |inner| inner.is_unplugged));
    }

    fn carry(self: Arc<Self>, near: TcpStream, target: SocketAddr) {
        self.wait();
        let Ok(far) = TcpStream::connect(target) else {
            return;
        };
        let clones = [&near, &far].map(TcpStream::try_clone);
        let [Ok(near_copy), Ok(far_copy)] = clones else {
            return;
        };
        let held = [&near, &far].map(TcpStream::try_clone);
        self.lock().sockets.extend(held.into_iter().flatten());
        let back = Arc::clone(&self);
        let backwards = std::thread::spawn(move || back.copy(far_copy, near_copy));
        self.copy(near, far);
        let _over = backwards.join();
    }

    fn copy(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            self.wait();
            if to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        let _gone = to.shutdown(Shutdown::Both);
    }
}
