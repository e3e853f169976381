//! The private database: whose process it is, and what its user can make control do.

use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use winston_tests::control::{Control, signal, until};

/// A process of the database's user that is not a database; ends with the test.
struct Sleeper(Child);

impl Sleeper {
    fn of_owner(path: &Path) -> std::io::Result<Self> {
        let owner = std::fs::metadata(path)?;
        let mut command = Command::new("sleep");
        command.arg("600");
        if nix::unistd::geteuid().is_root() {
            command.uid(owner.uid()).gid(owner.gid());
        }
        command.spawn().map(Self)
    }

    fn lives(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_pid_that_somebody_else_has_by_now_is_not_the_database() {
    let mut control = Control::start(&[]).await;
    let data = control.data_dir().join("postgres/data");
    let file = data.join("postmaster.pid");
    let mut sleeper = Sleeper::of_owner(&data).unwrap();
    let stale = std::fs::read_to_string(&file).unwrap();
    let (pid, rest) = stale.split_once('\n').unwrap();
    let pid: i32 = pid.parse().unwrap();
    let stale = format!("{}\n{rest}", sleeper.0.id());
    let running = async |control: &Control, not: &[i32]| {
        let admin = control.admin();
        until("the database", async || {
            let new = control.database_pid().is_some_and(|pid| !not.contains(&pid));
            (new && admin.get("/api/tenants").await.status == 200).then_some(())
        })
        .await;
    };
    let taken = sleeper.0.id() as i32;

    // While control runs. The file is overwritten in place, so that it stays the database's own.
    std::fs::write(&file, &stale).unwrap();
    signal(pid, Signal::SIGKILL);
    running(&control, &[pid, taken]).await;
    assert!(sleeper.lives());

    // When control starts: a container that is started again gives the same pids to other processes.
    assert!(control.terminate().unwrap().success());
    std::fs::write(&file, &stale).unwrap();
    std::os::unix::fs::chown(&file, Some(std::fs::metadata(&data).unwrap().uid()), None).unwrap();
    control.start_again().await;
    running(&control, &[taken]).await;
    assert!(sleeper.lives());

    // And when it stops.
    let pid = control.database_pid().unwrap();
    std::fs::write(&file, &stale).unwrap();
    signal(pid, Signal::SIGKILL);
    control.terminate();
    assert!(sleeper.lives());
}

#[tokio::test]
async fn control_writes_through_no_link_of_the_databases_user() {
    let mut control = Control::start(&[]).await;
    assert!(control.terminate().unwrap().success());
    let data = control.data_dir().join("postgres/data");
    let victim = control.scratch().join("victim");
    std::fs::write(&victim, "mine").unwrap();
    let before = std::fs::metadata(&victim).unwrap();
    for name in ["winston.conf", "postmaster.pid.new"] {
        let link = data.join(name);
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(&victim, &link).unwrap();
    }
    control.start_again().await;
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "mine");
    assert_eq!(std::fs::metadata(&victim).unwrap().uid(), before.uid());
    // The settings are control's own file, and in force.
    let settings = std::fs::metadata(control.data_dir().join("postgres.conf")).unwrap();
    assert_eq!(settings.uid(), nix::unistd::geteuid().as_raw());
    assert!(control.socket_dir().join(".s.PGSQL.5432").exists());
}

#[tokio::test]
async fn keys_are_added_and_revoked_while_control_runs() {
    let mut control = Control::start(&[]).await;
    let run = |arguments: &[&str]| {
        let mut command = control.command();
        let output = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, key, told) = run(&["key", "add", "deploy"]);
    assert_eq!(code, Some(0), "{told}");
    let client = control.client(Some(key.trim()));
    let _ = client.get("/api/tenants").await.expect(200);
    let (_, list, _) = run(&["key", "list"]);
    assert!(!list.contains(key.trim()));
    let id = |name: &str| {
        let line = list.lines().find(|line| line.split('\t').nth(1) == Some(name)).unwrap();
        line.split('\t').next().unwrap().to_owned()
    };
    assert_eq!(run(&["key", "revoke", &id("deploy")]).0, Some(0));
    let _ = client.get("/api/tenants").await.expect(401);
    assert_eq!(run(&["key", "revoke", &id("deploy")]).0, Some(1));
    for bad in [&["key"][..], &["key", "add", ""], &["key", "revoke", "7"], &["key", "list", "all"], &["sing"]] {
        assert_eq!(run(bad).0, Some(64), "{bad:?}");
    }

    // The key in the file, too; the next start makes another one.
    let old = control.admin();
    assert_eq!(run(&["key", "revoke", &id("admin")]).0, Some(0));
    let _ = old.get("/api/tenants").await.expect(401);
    assert!(control.terminate().unwrap().success());
    let output = control.command().args(["key", "list"]).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no private database runs"));
    control.start_again().await;
    let _ = control.admin().get("/api/tenants").await.expect(200);
}
