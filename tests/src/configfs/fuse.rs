//! As much of FUSE as an emulated configfs needs: requests from `/dev/fuse`, answers to it.
//!
//! Source: `include/uapi/linux/fuse.h`, protocol 7.31.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

use super::{Attribute, Tsm};

/// A mount that no folder shows: it is reached by the descriptor of its root, and ends with it.
#[derive(Debug)]
pub(super) struct Mount {
    root: OwnedFd,
}

impl Mount {
    pub(super) fn new(tsm: Arc<Tsm>) -> anyhow::Result<Self> {
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .context("failed to open /dev/fuse")?;
        let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (key, value) in [
            ("source", "configfs"),
            ("fd", &device.as_raw_fd().to_string()),
            ("rootmode", "40755"),
            ("user_id", "0"),
            ("group_id", "0"),
        ] {
            fsconfig_set_string(&context, key, value).with_context(|| key.to_owned())?;
        }
        fsconfig_create(&context)?;
        let root = fsmount(
            &context,
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::empty(),
        )?;
        let served = Arc::new(Served { device, tsm });
        std::thread::spawn(move || serve(&served));
        Ok(Self { root })
    }

    pub(super) fn path(&self) -> PathBuf {
        let (process, descriptor) = (std::process::id(), self.root.as_raw_fd());
        format!("/proc/{process}/fd/{descriptor}").into()
    }
}

struct Served {
    device: File,
    tsm: Arc<Tsm>,
}

/// Answers until the mount is gone, which the device says by an error.
fn serve(served: &Arc<Served>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = match (&served.device).read(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.raw_os_error() == Some(Errno::INTR.raw_os_error()) => continue,
            Err(_) => return,
        };
        let Some(request) = Request::parse(&buffer[..length]) else {
            return;
        };
        match request.opcode {
            FORGET | BATCH_FORGET | INTERRUPT => {}
            // A report may take its time, while others are served.
            READ => {
                let served = Arc::clone(served);
                std::thread::spawn(move || served.answer(request.unique, served.read(&request)));
            }
            _ => served.answer(request.unique, served.handle(&request)),
        }
    }
}

#[derive(Debug)]
struct Request {
    opcode: u32,
    unique: u64,
    node: u64,
    body: Vec<u8>,
}

impl Request {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (head, body) = bytes.split_at_checked(40)?;
        Some(Self {
            opcode: u32_at(head, 4),
            unique: u64_at(head, 8),
            node: u64_at(head, 16),
            body: body.to_vec(),
        })
    }

    /// The name that ends a body, after fields of some length.
    fn name(&self, after: usize) -> Result<String, Errno> {
        let name = self.body.get(after..).ok_or(Errno::INVAL)?;
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8(name.to_vec()).map_err(|_| Errno::INVAL)
    }
}

impl Served {
    fn answer(&self, unique: u64, outcome: Result<Vec<u8>, Errno>) {
        let (error, body) = match outcome {
            Ok(body) => (0, body),
            Err(errno) => (-errno.raw_os_error(), Vec::new()),
        };
        let length = u32::try_from(16 + body.len()).expect("answers are small");
        let mut answer = length.to_ne_bytes().to_vec();
        answer.extend(error.to_ne_bytes());
        answer.extend(unique.to_ne_bytes());
        answer.extend(body);
        // Who asked may have been killed meanwhile.
        let _gone = (&self.device).write_all(&answer);
    }

    fn handle(&self, request: &Request) -> Result<Vec<u8>, Errno> {
        let node = Node::of(request.node);
        match request.opcode {
            INIT => Ok(init()),
            LOOKUP => self.lookup(node, &request.name(0)?),
            GETATTR => Ok(attr_out(node)),
            // `O_TRUNC` means nothing here.
            SETATTR => Ok(attr_out(node)),
            MKDIR if node == Node::Root => {
                let entry = self.tsm.make_entry(&request.name(8)?)?;
                Ok(entry_out(Node::Entry(entry)))
            }
            MKDIR | UNLINK => Err(Errno::PERM),
            MKNOD | CREATE => Err(Errno::ACCESS),
            RMDIR if node == Node::Root => {
                self.tsm.remove_entry(&request.name(0)?)?;
                Ok(Vec::new())
            }
            OPEN => {
                let Node::Attribute(entry, attribute) = node else {
                    return Err(Errno::ISDIR);
                };
                // O_RDONLY, O_WRONLY, or what is neither.
                let to_write = match u32_at(&request.body, 0) & 3 {
                    0 => false,
                    1 => true,
                    _ => return Err(Errno::ACCESS),
                };
                let open = self.tsm.open(entry, attribute, to_write)?;
                let mut out = open.to_ne_bytes().to_vec();
                out.extend(DIRECT_IO.to_ne_bytes());
                out.extend([0; 4]);
                Ok(out)
            }
            WRITE => {
                let data = request.body.get(40..).ok_or(Errno::INVAL)?;
                self.tsm.write(u64_at(&request.body, 0), data)?;
                let mut out = u32::try_from(data.len())
                    .expect("bounded by INIT")
                    .to_ne_bytes()
                    .to_vec();
                out.extend([0; 4]);
                Ok(out)
            }
            FLUSH => {
                self.tsm.flush(u64_at(&request.body, 0));
                Ok(Vec::new())
            }
            RELEASE => {
                self.tsm.release(u64_at(&request.body, 0));
                Ok(Vec::new())
            }
            _ => Err(Errno::NOSYS),
        }
    }

    fn lookup(&self, parent: Node, name: &str) -> Result<Vec<u8>, Errno> {
        let node = match parent {
            Node::Root => Node::Entry(self.tsm.find_entry(name)?),
            Node::Entry(entry) => Node::Attribute(entry, self.tsm.find_attribute(entry, name)?),
            Node::Attribute(..) => return Err(Errno::NOTDIR),
        };
        Ok(entry_out(node))
    }

    fn read(&self, request: &Request) -> Result<Vec<u8>, Errno> {
        let offset = usize::try_from(u64_at(&request.body, 8)).map_err(|_| Errno::INVAL)?;
        let size = usize::try_from(u32_at(&request.body, 16)).map_err(|_| Errno::INVAL)?;
        let content = self.tsm.read(u64_at(&request.body, 0))?;
        let rest = content.get(offset..).unwrap_or_default();
        Ok(rest[..rest.len().min(size)].to_vec())
    }
}

/// What a node's number says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Node {
    Root,
    Entry(u64),
    Attribute(u64, Attribute),
}

impl Node {
    fn of(number: u64) -> Self {
        let (entry, attribute) = (number >> 8, usize::try_from(number & 0xff).unwrap_or(0));
        match attribute.checked_sub(1) {
            None => Self::Entry(entry),
            Some(_) if entry == 0 => Self::Root,
            Some(index) => Self::Attribute(entry, Attribute::ALL[index].0),
        }
    }

    fn number(self) -> u64 {
        match self {
            Self::Root => 1,
            Self::Entry(entry) => entry << 8,
            Self::Attribute(entry, attribute) => {
                let mut all = Attribute::ALL.iter();
                let index = all.position(|(found, _)| *found == attribute);
                entry << 8 | (index.expect("it is in the list") as u64 + 1)
            }
        }
    }

    fn mode_and_size(self) -> (u32, u64) {
        match self {
            Self::Root | Self::Entry(_) => (0o40755, 0),
            Self::Attribute(_, attribute) => {
                let mode = if attribute.is_written() { 0o200 } else { 0o444 };
                let size = if attribute.is_binary() { 0 } else { 4096 };
                (0o100_000 | mode, size)
            }
        }
    }
}

/// `struct fuse_attr`.
fn attr(node: Node) -> Vec<u8> {
    let (mode, size) = node.mode_and_size();
    let mut out = Vec::new();
    for field in [node.number(), size, 0, 0, 0, 0] {
        out.extend(field.to_ne_bytes());
    }
    for field in [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0_u32] {
        out.extend(field.to_ne_bytes());
    }
    out
}

/// `struct fuse_attr_out`, valid for no time.
fn attr_out(node: Node) -> Vec<u8> {
    [vec![0; 16], attr(node)].concat()
}

/// `struct fuse_entry_out`, valid for no time.
fn entry_out(node: Node) -> Vec<u8> {
    let number = node.number().to_ne_bytes();
    [number.to_vec(), vec![0; 32], attr(node)].concat()
}

/// `struct fuse_init_out`.
fn init() -> Vec<u8> {
    let mut out = Vec::new();
    for field in [7, 31, 0, 0_u32] {
        out.extend(field.to_ne_bytes());
    }
    out.extend([0; 4]); // background requests: as the kernel likes
    out.extend(4096_u32.to_ne_bytes()); // longest write
    out.resize(64, 0);
    out
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk());
    u32::from_ne_bytes(*field.expect("the kernel sends whole structures"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk());
    u64::from_ne_bytes(*field.expect("the kernel sends whole structures"))
}

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const SETATTR: u32 = 4;
const MKNOD: u32 = 8;
const MKDIR: u32 = 9;
const UNLINK: u32 = 10;
const RMDIR: u32 = 11;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const CREATE: u32 = 35;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;
/// Each read and write reaches us.
const DIRECT_IO: u32 = 1;
