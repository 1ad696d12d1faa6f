//! The emulated configfs behaves as the kernel's: what the other tests rest on.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

use rustix::io::Errno;
use vouchsafe_tests::configfs::{Asked, Configfs, Made};

fn write(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.write_all(content)
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.read_to_end(&mut content)?;
    Ok(content)
}

#[track_caller]
fn fails<T: std::fmt::Debug>(outcome: std::io::Result<T>, errno: Errno) {
    let error = outcome.expect_err("it must fail");
    assert_eq!(error.raw_os_error(), Some(errno.raw_os_error()), "{error}");
}

fn echo(asked: &Asked) -> Result<Made, Errno> {
    Ok(Made {
        outblob: asked.inblob.clone(),
        auxblob: vec![1; 10_000],
    })
}

#[test]
fn an_entry_comes_and_goes_with_its_attributes_and_nothing_else_does() {
    if !Configfs::is_possible() {
        return;
    }
    let configfs = Configfs::mount("sev_guest", echo).unwrap();
    let entry = configfs.path().join("one");
    fs::create_dir(&entry).unwrap();
    fails(fs::create_dir(&entry), Errno::EXIST);
    assert_eq!(configfs.entries(), ["one"]);
    assert_eq!(read(&entry.join("provider")).unwrap(), b"sev_guest\n");
    assert_eq!(read(&entry.join("generation")).unwrap(), b"0\n");
    fails(File::create_new(entry.join("more")), Errno::ACCESS);
    fails(
        File::create_new(configfs.path().join("more")),
        Errno::ACCESS,
    );
    fails(fs::create_dir(entry.join("more")), Errno::PERM);
    fails(fs::remove_file(entry.join("inblob")), Errno::PERM);
    fails(File::open(entry.join("inblob")), Errno::ACCESS);
    fails(write(&entry.join("outblob"), b"x"), Errno::ACCESS);
    assert_eq!(fs::metadata(entry.join("outblob")).unwrap().len(), 0);
    assert_eq!(fs::metadata(entry.join("generation")).unwrap().len(), 4096);
    fs::remove_dir(&entry).unwrap();
    fails(fs::remove_dir(&entry), Errno::NOENT);
    fails(read(&entry.join("provider")), Errno::NOENT);
    let nothing = Configfs::mount_without_provider().unwrap();
    fails(fs::create_dir(nothing.path().join("one")), Errno::NXIO);
}

#[test]
fn a_report_is_made_from_what_was_stored_last() {
    if !Configfs::is_possible() {
        return;
    }
    let configfs = Configfs::mount("sev_guest", echo).unwrap();
    let entry = configfs.path().join("one");
    fs::create_dir(&entry).unwrap();
    let (inblob, outblob) = (entry.join("inblob"), entry.join("outblob"));
    fails(read(&outblob), Errno::INVAL);
    fails(write(&inblob, &[1; 65]), Errno::FBIG);
    write(&inblob, &[1; 63]).unwrap();
    fails(read(&outblob), Errno::INVAL);
    write(&inblob, &[1; 64]).unwrap();
    assert_eq!(read(&outblob).unwrap(), [1; 64]);
    assert_eq!(read(&entry.join("auxblob")).unwrap(), [1; 10_000]);
    write(&inblob, &[2; 64]).unwrap();
    assert_eq!(read(&outblob).unwrap(), [2; 64]);
    fails(write(&entry.join("privlevel"), b"0"), Errno::INVAL);
    fails(write(&entry.join("privlevel"), b"4"), Errno::INVAL);
    fails(write(&entry.join("privlevel"), &[1]), Errno::INVAL);
    write(&entry.join("privlevel"), b"1\n").unwrap();
    // Four stores, and one of nothing: what was too long leaves an empty buffer for the close to store.
    assert_eq!(read(&entry.join("generation")).unwrap(), b"5\n");
}

#[test]
fn a_trust_domain_has_no_attributes_of_the_other_maker() {
    if !Configfs::is_possible() {
        return;
    }
    let configfs = Configfs::mount("tdx_guest", echo).unwrap();
    let entry = configfs.path().join("one");
    fs::create_dir(&entry).unwrap();
    for attribute in ["auxblob", "privlevel", "privlevel_floor"] {
        fails(fs::metadata(entry.join(attribute)), Errno::NOENT);
    }
}
