//! A real PostgreSQL behind a `tcp` door, and psql before it: the server speaks first in the cancel protocol, the copy
//! protocol streams both ways, many short sessions follow each other, and a long one outlives its certificates.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use vouchsafe_tests::process::{self, Process};
use vouchsafe_tests::{port, wait};

use crate::pair::{LANES, Pair, Renewed, Session};

#[test]
fn psql_queries_copies_and_cancels() {
    let server = Postgres::start();
    for lane in LANES {
        let pair = Pair::start(lane, "tcp", "", server.address);
        let door = pair.door();
        assert_eq!(psql(door, "select 6 * 7"), "42\n");
        // Megabytes down, and up again through the copy protocol.
        let rows = psql(
            door,
            "copy (select i, repeat('x', 100) from generate_series(1, 50000) i) to stdout",
        );
        assert_eq!(rows.lines().count(), 50_000, "{lane}");
        let file = server.folder.path().join(format!("{lane}.tsv"));
        std::fs::write(&file, &rows).expect("the folder can be written");
        let counted = psql(
            door,
            &format!(
                "create table t_{lane} (i int, x text);\n\\copy t_{lane} from {}\nselect count(*), sum(i) from t_{lane};",
                file.display()
            ),
        );
        assert!(counted.contains("50000|1250025000"), "{lane}: {counted}");
        // Each session is a connection of its own; none is left behind.
        for number in 0..20 {
            assert_eq!(
                psql(door, &format!("select {number}")),
                format!("{number}\n")
            );
        }
        let wait_for_end =
            "select count(*) from pg_stat_activity where backend_type = 'client backend'";
        wait::until("sessions to end at the server", || {
            (psql(server.address, wait_for_end) == "1\n").then_some(())
        });
        pair.assert_lane(lane);
    }
}

#[test]
fn a_session_of_psql_lives_through_five_renewals() {
    let server = Postgres::start();
    for lane in LANES {
        let pair = Renewed::start(lane, "tcp", "", server.address);
        let port = pair.door().port().to_string();
        let mut command = Command::new("psql");
        command.args(["-h", "127.0.0.1", "-U", "postgres", "-qAtX", "-p", &port]);
        let mut session = Session::of(command);
        // What only this session has: the process that serves it, and a table of its own.
        let backend = session.ask("select pg_backend_pid();");
        let made = session.ask("create temporary table kept (i int); select 'made';");
        assert_eq!(made, "made", "{lane}");
        pair.through_five_renewals(|number| {
            let asked = format!(
                "insert into kept values ({number}); select pg_backend_pid(), count(*) from kept;"
            );
            let expected = format!("{backend}|{}", number + 1);
            assert_eq!(session.ask(&asked), expected, "{lane}");
        });
    }
}

/// A database cluster of its own, on loopback.
struct Postgres {
    process: Process,
    address: SocketAddr,
    folder: TempDir,
}

impl Postgres {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let data = folder.path().join("data");
        std::fs::create_dir(&data).expect("the folder can be made");
        // PostgreSQL refuses to run as root, so root hands the folder to the package's user.
        let root = process::run("id", ["-u"]).stdout.trim() == "0";
        if root {
            process::run(
                "chown",
                ["-R", "postgres", &folder.path().display().to_string()],
            )
            .expect_success();
        }
        let binaries = binaries();
        let user = if root {
            vec!["--reuid", "postgres", "--init-groups", "--"]
        } else {
            vec!["--"]
        };
        let path = |path: PathBuf| path.display().to_string();
        let mut arguments: Vec<String> = user.iter().map(ToString::to_string).collect();
        arguments.extend([
            path(binaries.join("initdb")),
            "-D".into(),
            path(data.clone()),
        ]);
        arguments.extend(
            [
                "-U",
                "postgres",
                "-A",
                "trust",
                "-N",
                "-E",
                "UTF8",
                "--locale=C",
            ]
            .map(str::to_owned),
        );
        process::run("setpriv", &arguments).expect_success();

        let address = port::free();
        let mut arguments: Vec<String> = user.iter().map(ToString::to_string).collect();
        arguments.extend([path(binaries.join("postgres")), "-D".into(), path(data)]);
        arguments.extend([
            "-h".to_owned(),
            "127.0.0.1".to_owned(),
            "-p".to_owned(),
            address.port().to_string(),
        ]);
        arguments.extend(["-k", "", "-c", "fsync=off"].map(str::to_owned));
        let process = Process::spawn("postgres", folder.path(), Path::new("setpriv"), &arguments);
        wait::until("PostgreSQL to answer", || {
            let ready = Command::new(binaries.join("pg_isready"))
                .args(["-q", "-h", "127.0.0.1", "-p", &address.port().to_string()])
                .status();
            ready.is_ok_and(|status| status.success()).then_some(())
        });
        Self {
            process,
            address,
            folder,
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // A killed PostgreSQL leaves shared memory behind; asked to end, it takes it along.
        if self.process.is_running() {
            self.process.signal("INT");
            self.process.wait();
        }
    }
}

/// The newest version that is installed.
#[track_caller]
fn binaries() -> PathBuf {
    let versions =
        std::fs::read_dir("/usr/lib/postgresql").expect("the package postgresql is installed");
    let mut folders: Vec<_> = versions
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .collect();
    folders.retain(|folder| folder.join("postgres").exists());
    folders.sort();
    folders.pop().expect("the package postgresql is installed")
}

/// Runs SQL in a session of its own.
#[track_caller]
fn psql(address: SocketAddr, sql: &str) -> String {
    let script = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(script.path(), sql).expect("the file can be written");
    let port = address.port().to_string();
    process::run(
        "psql",
        [
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-U",
            "postgres",
            "-qAtX",
            "-v",
            "ON_ERROR_STOP=1",
            "-f",
        ]
        .into_iter()
        .map(Into::into)
        .chain([script.path().as_os_str().to_owned()]),
    )
    .expect_success()
}
