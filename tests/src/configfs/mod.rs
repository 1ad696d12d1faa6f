//! Confidential guests that are none: a file system that behaves as the kernel's configfs-tsm does.
//!
//! It is mounted through FUSE, so that the sidecar's own system calls meet it, and it is part of no mount table: it is
//! gone with its last user, however a test ends. Only root may mount, and `/dev/fuse` must be there.
//!
//! What is emulated, after `drivers/virt/coco/guest/report.c` and `fs/configfs/file.c` of Linux 6.12:
//! - `mkdir` makes an entry with its attributes at once, and fails with `ENXIO` without a provider; nobody can make a
//!   file, remove an attribute, or make a folder in an entry; `rmdir` removes an entry though it is not empty.
//! - `inblob` takes at most 64 bytes (`EFBIG`), which are stored when the file is closed, whatever comes of it then.
//! - Each store counts in `generation`; a report made before the latest store is made anew.
//! - `outblob` is made by its first read: `EINVAL` without `inblob` or where it is not exactly 64 bytes long, whatever
//!   error the provider has, `EFBIG` above 32 KiB. It is kept until the next store.
//! - `auxblob`, `privlevel` and `privlevel_floor` exist for SEV-SNP only; a level below the floor or above 3 is `EINVAL`,
//!   and the level is text.
//! - Attributes are only read or only written (`EACCES`), and have the sizes that the kernel says: 4096 or 0.
//!
//! What is not: listing a folder, entries' owners, the attributes of SVSM guests.

mod fuse;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

/// A mounted file system.
#[derive(Debug)]
pub struct Configfs {
    tsm: Arc<Tsm>,
    mount: fuse::Mount,
}

/// What the provider makes of a request.
#[derive(Clone, Debug, Default)]
pub struct Made {
    /// The report or quote.
    pub outblob: Vec<u8>,
    /// The certificate table.
    pub auxblob: Vec<u8>,
}

/// What the provider is asked.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Name of the entry.
    pub entry: String,
    /// What was written.
    pub inblob: Vec<u8>,
    /// The level that was written.
    pub privlevel: Option<u32>,
}

type Provider = Box<dyn Fn(&Asked) -> Result<Made, Errno> + Send + Sync>;

impl Configfs {
    /// Mounts one whose provider has this name (`sev_guest`, `tdx_guest`, …) and makes reports so.
    ///
    /// # Errors
    /// When this process may not mount.
    pub fn mount(
        provider: &str,
        make: impl Fn(&Asked) -> Result<Made, Errno> + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        Self::mount_tsm(Some((provider.to_owned(), Box::new(make))))
    }

    /// Mounts one of a machine that is no confidential guest.
    ///
    /// # Errors
    /// When this process may not mount.
    pub fn mount_without_provider() -> anyhow::Result<Self> {
        Self::mount_tsm(None)
    }

    /// Whether this process may mount: the tests that need it say so and pass where it may not.
    pub fn is_possible() -> bool {
        let possible =
            std::path::Path::new("/dev/fuse").exists() && rustix::process::geteuid().is_root();
        if !possible {
            eprintln!("skipped: mounting needs root and /dev/fuse");
        }
        possible
    }

    fn mount_tsm(provider: Option<(String, Provider)>) -> anyhow::Result<Self> {
        let tsm = Arc::new(Tsm {
            provider,
            state: Mutex::default(),
        });
        let mount = fuse::Mount::new(Arc::clone(&tsm))?;
        Ok(Self { tsm, mount })
    }

    /// What `sev_snp.path` names. Also good for other processes, as long as this one lives.
    pub fn path(&self) -> PathBuf {
        self.mount.path()
    }

    /// Names of the entries that exist.
    pub fn entries(&self) -> Vec<String> {
        let state = self.tsm.state();
        let entries = state.entries.values();
        entries.map(|entry| entry.name.clone()).collect()
    }
}

/// The kernel's side.
struct Tsm {
    provider: Option<(String, Provider)>,
    state: Mutex<State>,
}

impl std::fmt::Debug for Tsm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tsm(..)")
    }
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<u64, Entry>,
    last_entry: u64,
    open: BTreeMap<u64, Open>,
    last_open: u64,
}

#[derive(Clone, Debug, Default)]
struct Entry {
    name: String,
    inblob: Vec<u8>,
    privlevel: Option<u32>,
    write_generation: u64,
    read_generation: u64,
    made: Option<Made>,
}

/// An open file.
#[derive(Clone, Debug)]
struct Open {
    entry: u64,
    attribute: Attribute,
    /// What was written and not stored yet.
    written: Option<Vec<u8>>,
    /// What the first read found.
    content: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Attribute {
    Inblob,
    Outblob,
    Auxblob,
    Provider,
    Generation,
    Privlevel,
    PrivlevelFloor,
}

impl Attribute {
    const ALL: [(Self, &'static str); 7] = [
        (Self::Inblob, "inblob"),
        (Self::Outblob, "outblob"),
        (Self::Auxblob, "auxblob"),
        (Self::Provider, "provider"),
        (Self::Generation, "generation"),
        (Self::Privlevel, "privlevel"),
        (Self::PrivlevelFloor, "privlevel_floor"),
    ];

    fn is_written(self) -> bool {
        matches!(self, Self::Inblob | Self::Privlevel)
    }

    fn is_binary(self) -> bool {
        matches!(self, Self::Inblob | Self::Outblob | Self::Auxblob)
    }

    fn is_of_sev(self) -> bool {
        matches!(self, Self::Auxblob | Self::Privlevel | Self::PrivlevelFloor)
    }
}

impl Tsm {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make_entry(&self, name: &str) -> Result<u64, Errno> {
        if self.provider.is_none() {
            return Err(Errno::NXIO);
        }
        let mut state = self.state();
        if state.entries.values().any(|entry| entry.name == name) {
            return Err(Errno::EXIST);
        }
        state.last_entry += 1;
        let number = state.last_entry;
        let entry = Entry {
            name: name.to_owned(),
            ..Entry::default()
        };
        state.entries.insert(number, entry);
        Ok(number)
    }

    fn find_entry(&self, name: &str) -> Result<u64, Errno> {
        let state = self.state();
        let mut entries = state.entries.iter();
        entries
            .find(|(_, entry)| entry.name == name)
            .map(|(number, _)| *number)
            .ok_or(Errno::NOENT)
    }

    fn remove_entry(&self, name: &str) -> Result<(), Errno> {
        let number = self.find_entry(name)?;
        self.state().entries.remove(&number);
        Ok(())
    }

    fn find_attribute(&self, entry: u64, name: &str) -> Result<Attribute, Errno> {
        if !self.state().entries.contains_key(&entry) {
            return Err(Errno::NOENT);
        }
        let is_sev = matches!(&self.provider, Some((name, _)) if name == "sev_guest");
        let mut all = Attribute::ALL.into_iter();
        all.find(|(attribute, found)| *found == name && (is_sev || !attribute.is_of_sev()))
            .map(|(attribute, _)| attribute)
            .ok_or(Errno::NOENT)
    }

    fn open(&self, entry: u64, attribute: Attribute, to_write: bool) -> Result<u64, Errno> {
        if attribute.is_written() != to_write {
            return Err(Errno::ACCESS);
        }
        let mut state = self.state();
        state.last_open += 1;
        let number = state.last_open;
        state.open.insert(
            number,
            Open {
                entry,
                attribute,
                written: None,
                content: None,
            },
        );
        Ok(number)
    }

    fn write(&self, open: u64, data: &[u8]) -> Result<(), Errno> {
        let mut state = self.state();
        let State {
            entries,
            open: files,
            ..
        } = &mut *state;
        let file = files.get_mut(&open).ok_or(Errno::BADF)?;
        if file.attribute == Attribute::Inblob {
            let written = file.written.get_or_insert_default();
            if written.len() + data.len() > 64 {
                return Err(Errno::FBIG);
            }
            written.extend_from_slice(data);
            return Ok(());
        }
        let entry = entries.get_mut(&file.entry).ok_or(Errno::NOENT)?;
        let level = std::str::from_utf8(data).ok();
        let level = level.and_then(|text| text.trim_end().parse().ok());
        let level = level.ok_or(Errno::INVAL)?;
        if !(FLOOR..=3).contains(&level) {
            return Err(Errno::INVAL);
        }
        entry.advance()?;
        entry.privlevel = Some(level);
        Ok(())
    }

    /// `close(2)`: what was written is stored, and nobody hears if it is not.
    fn flush(&self, open: u64) {
        let mut state = self.state();
        let State {
            entries,
            open: files,
            ..
        } = &mut *state;
        if let Some(file) = files.get_mut(&open)
            && let Some(written) = file.written.take()
            && let Some(entry) = entries.get_mut(&file.entry)
            && entry.advance().is_ok()
        {
            entry.inblob = written;
        }
    }

    fn release(&self, open: u64) {
        self.state().open.remove(&open);
    }

    /// The whole attribute. May block as long as the provider does.
    fn read(&self, open: u64) -> Result<Vec<u8>, Errno> {
        let file = self.state().open.get(&open).cloned().ok_or(Errno::BADF)?;
        if let Some(content) = file.content {
            return Ok(content);
        }
        let content = self.content(file.entry, file.attribute)?;
        if let Some(file) = self.state().open.get_mut(&open) {
            file.content = Some(content.clone());
        }
        Ok(content)
    }

    fn content(&self, number: u64, attribute: Attribute) -> Result<Vec<u8>, Errno> {
        let (name, make) = self.provider.as_ref().ok_or(Errno::NXIO)?;
        let entry = || self.state().entries.get(&number).cloned();
        let found = entry().ok_or(Errno::NOENT)?;
        let line = |text: String| Ok((text + "\n").into_bytes());
        match attribute {
            Attribute::Provider => line(name.clone()),
            Attribute::Generation => line(found.write_generation.to_string()),
            Attribute::PrivlevelFloor => line(FLOOR.to_string()),
            Attribute::Inblob | Attribute::Privlevel => Err(Errno::ACCESS),
            Attribute::Outblob | Attribute::Auxblob => {
                let made = match found.made {
                    Some(made) if found.read_generation == found.write_generation => made,
                    _ => {
                        if found.inblob.len() != 64 {
                            return Err(Errno::INVAL);
                        }
                        let made = make(&Asked {
                            entry: found.name,
                            inblob: found.inblob,
                            privlevel: found.privlevel,
                        })?;
                        if let Some(entry) = self.state().entries.get_mut(&number) {
                            entry.read_generation = found.write_generation;
                            entry.made = Some(made.clone());
                        }
                        made
                    }
                };
                let blob = match attribute {
                    Attribute::Outblob => made.outblob,
                    _ => made.auxblob,
                };
                if blob.len() > MAX_BLOB {
                    return Err(Errno::FBIG);
                }
                Ok(blob)
            }
        }
    }
}

impl Entry {
    /// Counts a store; one that would make the count what it was at the last report is refused.
    fn advance(&mut self) -> Result<(), Errno> {
        if self.write_generation == self.read_generation.wrapping_sub(1) {
            return Err(Errno::BUSY);
        }
        self.write_generation = self.write_generation.wrapping_add(1);
        Ok(())
    }
}

/// The guest's own level.
const FLOOR: u32 = 1;
const MAX_BLOB: usize = 32 * 1024;
