//! What only an SFTP server can say or do: a status that means many things, extensions that it
//! lacks, permissions, and what lies in its folders.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::time::Duration;

use replica_core::{
    Body, ByteRange, Error, ErrorKind, Layout, Level, Op, ReplicaClient, ReplicaClientExt,
    Timestamp, Timestamps, Txid,
};
use replica_sftp::SftpClient;
use support::calls::{NOON, client, content, file, listed, read, soon, until, write};
use support::served::Served;
use testbed::{Fault, Proxy};

fn name(txid: u64) -> String {
    file(txid).txids.to_string()
}

/// What the server says when a file can't be written, after one that could.
async fn failed_write(server: &Served, writable: u64) -> (SftpClient, Error) {
    let client = client(server.config("db"));
    let first = write(&client, 1, &content(10, 1)).await;
    first.expect("there should be space for the first");
    server.fail_writes_after(writable);
    let second = write(&client, 1, &content(500_000, 2)).await;
    (client, second.expect_err("there should be no space left"))
}

#[tokio::test]
async fn a_full_disk_is_told_from_other_failures_and_leaves_the_old_file_and_nothing_else() {
    for writable in [0, 100_000, 400_000] {
        let server = Served::start();
        server.set_free(1000);

        let (client, error) = failed_write(&server, writable).await;

        assert_eq!(error.kind(), ErrorKind::Other, "{error}");
        assert!(error.to_string().contains("no space is left"), "{error}");
        assert_eq!(server.names(), [name(1)]);
        assert_eq!(read(&client, 1).await.unwrap(), content(10, 1));
    }
}

#[tokio::test]
async fn a_quota_is_guessed_where_the_disk_has_space() {
    let server = Served::start();

    let (_, error) = failed_write(&server, 100_000).await;

    assert_eq!(error.kind(), ErrorKind::Other, "{error}");
    assert!(error.to_string().contains("a quota may be"), "{error}");
    assert_eq!(server.names(), [name(1)]);
}

#[tokio::test]
async fn a_failure_without_a_reason_is_told_where_nothing_can_be_asked() {
    let server = Served::start();
    server.set_free(0);
    server.refuse_extension("statvfs@openssh.com");

    let (_, error) = failed_write(&server, 100_000).await;

    assert_eq!(error.kind(), ErrorKind::Other, "{error}");
    assert!(error.to_string().contains("gives no reason"), "{error}");
    assert_eq!(server.names(), [name(1)]);
}

#[tokio::test]
async fn a_name_that_a_folder_has_is_told_as_such() {
    for extension in ["none", "posix-rename@openssh.com"] {
        let server = Served::start();
        server.refuse_extension(extension);
        fs::create_dir_all(server.path("db/ltx/0").join(name(1)).join("full")).unwrap();
        let client = client(server.config("db").atomic_replace(extension == "none"));

        let error = write(&client, 1, &content(10, 1)).await.unwrap_err();

        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(
            error.to_string().contains("a folder has the name"),
            "{error}"
        );
        assert_eq!(server.names(), [name(1)]);
    }
}

#[tokio::test]
async fn folders_that_are_there_already_are_no_failure() {
    let server = Served::start();
    fs::create_dir_all(server.path("a/db/ltx")).unwrap();

    let written = write(&client(server.config("a/db")), 1, &content(10, 1)).await;

    written.unwrap();
    assert!(server.path("a/db/ltx/0").join(name(1)).exists());
}

#[tokio::test]
async fn a_folder_that_can_not_be_removed_is_no_failure_once_it_is_empty() {
    let server = Served::start();
    let client = client(server.config("db"));
    write(&client, 1, &content(10, 1)).await.unwrap();
    // The root is behind a link, which `rmdir` doesn't take.
    fs::rename(server.path("db"), server.path("behind")).unwrap();
    symlink("behind", server.path("db")).unwrap();

    soon(client.delete_all()).await.unwrap();

    assert_eq!(fs::read_dir(server.path("behind")).unwrap().count(), 0);
    write(&client, 1, &content(10, 1)).await.unwrap();
}

#[tokio::test]
async fn a_server_without_fsync_is_written_to_and_one_with_it_is_asked() {
    let with = Served::start();
    let without = Served::start();
    without.refuse_extension("fsync@openssh.com");

    for server in [&with, &without] {
        let client = client(server.config("db"));
        write(&client, 1, &content(10, 1)).await.unwrap();
        assert_eq!(read(&client, 1).await.unwrap(), content(10, 1));
    }

    assert_eq!(with.requests("fsync@openssh.com"), 1);
    assert_eq!(without.requests("fsync@openssh.com"), 0);
}

#[tokio::test]
async fn a_server_without_posix_rename_replaces_only_for_who_knows_it() {
    let server = Served::start();
    server.refuse_extension("posix-rename@openssh.com");
    let trusting = client(server.config("db"));
    let asked = SftpClient::connect(server.config("db")).await.unwrap();
    write(&trusting, 1, &content(10, 1)).await.unwrap();

    let refused = write(&trusting, 1, &content(10, 2)).await.unwrap_err();
    let kept = read(&trusting, 1).await.unwrap();
    write(&asked, 1, &content(10, 3)).await.unwrap();

    assert!(trusting.capabilities().atomic_replace);
    assert!(!asked.capabilities().atomic_replace);
    assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
    assert!(refused.to_string().contains("atomic_replace"), "{refused}");
    assert_eq!(kept, content(10, 1));
    assert_eq!(read(&asked, 1).await.unwrap(), content(10, 3));
    assert_eq!(server.names(), [name(1)]);
}

#[tokio::test]
async fn a_replacement_in_steps_that_nobody_waits_for_leaves_one_whole_file_and_nothing_else() {
    const LATE: Duration = Duration::from_millis(50);
    let server = Served::start();
    server.refuse_extension("posix-rename@openssh.com");
    let network = Proxy::start(server.address());
    let config = server.config_by(&network, "db").atomic_replace(false);
    let client = client(config.connections_max(1));
    let (old, new) = (content(100, 1), content(200, 2));

    for renames in 1..=3 {
        write(&client, 1, &old).await.unwrap();
        let before = server.requests("rename");
        network.set(Fault::Latency {
            up: Duration::ZERO,
            down: LATE,
        });
        tokio::select! {
            written = write(&client, 1, &new) => written.unwrap(),
            () = until("a rename", || server.requests("rename") == before + renames) => {}
        }
        network.clear();

        let read = read(&client, 1).await;
        assert!([&old, &new].contains(&&read.unwrap()), "{renames}");
        until("the end of all else", || server.names() == [name(1)]).await;
    }
}

#[tokio::test]
async fn what_permissions_forbid_is_told_as_such() {
    let server = Served::start();
    let client = client(server.config("db"));
    write(&client, 1, &content(10, 1)).await.unwrap();
    write(&client, 2, &content(10, 2)).await.unwrap();

    server.deny(&format!("/db/ltx/0/{}", name(1)));
    let opened = soon(client.open(file(1), ByteRange::ALL)).await.err();
    let deleted = soon(client.delete(&[file(1), file(2), file(3)])).await;
    server.deny("/db/ltx/0");
    let listed = listed(&client).await;
    let written = write(&client, 3, &content(10, 3)).await;
    let emptied = soon(client.delete_all()).await;
    server.allow_everything();

    let deleted = deleted.unwrap_err();
    assert_eq!(deleted.files(), [file(1)]);
    for (op, error) in [
        (Op::Open, opened.unwrap()),
        (Op::Delete, deleted),
        (Op::List, listed.unwrap_err()),
        (Op::Write, written.unwrap_err()),
        (Op::DeleteAll, emptied.unwrap_err()),
    ] {
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        assert_eq!(error.op(), Some(op));
    }
    assert_eq!(server.names(), [name(1)], "and the other file is deleted");
}

#[tokio::test]
async fn a_root_that_is_no_folder_is_no_empty_replica() {
    let server = Served::start();
    fs::write(server.path("taken"), "a file").unwrap();
    symlink("nowhere", server.path("dangling")).unwrap();

    for root in ["taken", "taken/below", "dangling", "dangling/below"] {
        let client = client(server.config(root));

        let listed = listed(&client).await.unwrap_err();
        let opened = read(&client, 1).await.unwrap_err();
        let written = write(&client, 1, &content(10, 1)).await.unwrap_err();

        for error in [listed, opened, written] {
            assert_eq!(error.kind(), ErrorKind::Invalid, "{root}: {error}");
            assert!(error.to_string().contains("path of the replica"), "{error}");
        }
    }
}

#[tokio::test]
async fn what_a_dead_process_has_left_disturbs_nobody_and_goes_with_everything() {
    let server = Served::start();
    let client = client(server.config("db"));
    write(&client, 1, &content(10, 1)).await.unwrap();
    let folder = server.path("db/ltx/0");
    fs::write(folder.join(format!("{}.1f.tmp", name(2))), "half").unwrap();
    fs::write(folder.join(format!("{}.2f.old", name(1))), "old").unwrap();

    let before = listed(&client).await.unwrap();
    write(&client, 2, &content(10, 2)).await.unwrap();
    let after = listed(&client).await.unwrap();
    soon(client.delete_all()).await.unwrap();

    assert_eq!(before, [1]);
    assert_eq!(after, [1, 2]);
    assert!(!server.path("db").exists());
}

#[tokio::test]
async fn files_lie_where_litestream_keeps_them_with_the_time_they_were_given() {
    let server = Served::start();

    write(&client(server.config("a b/db")), 1, &content(10, 1))
        .await
        .unwrap();

    let path = server.path("a b/db").join(Layout::Tree.path(file(1)));
    assert_eq!(fs::read(&path).unwrap(), content(10, 1));
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    assert_eq!(Timestamp::from_system_time(modified), Some(NOON));
}

#[tokio::test]
async fn the_servers_own_root_can_be_a_replica_and_keeps_what_is_not_of_it() {
    let server = Served::start();
    fs::write(server.path("precious"), "stays").unwrap();
    let mut config = server.config("");
    config.root = "/".to_owned();
    let client = client(config);
    write(&client, 1, &content(10, 1)).await.unwrap();

    let there = listed(&client).await.unwrap();
    soon(client.delete_all()).await.unwrap();

    assert_eq!(there, [1]);
    assert!(!server.path("ltx").exists());
    assert!(server.path("precious").exists());
    assert!(server.path("home").exists());
}

/// The folder in which a login begins was once known as such only where it was written as `.`.
#[tokio::test]
async fn the_folder_in_which_a_login_begins_keeps_what_is_not_of_the_replica() {
    for root in [".", "/home", "../home", "/link"] {
        let server = Served::start();
        fs::write(server.path("home/precious"), "stays").unwrap();
        symlink("home", server.path("link")).unwrap();
        let mut config = server.config("");
        config.root = root.to_owned();
        let client = client(config);
        write(&client, 1, &content(10, 1)).await.unwrap();

        soon(client.delete_all()).await.unwrap();

        assert!(!server.path("home/ltx").exists(), "{root}");
        assert!(server.path("home/precious").exists(), "{root}");
    }
}

#[tokio::test]
async fn a_link_in_the_place_of_the_levels_is_deleted_and_not_followed() {
    let server = Served::start();
    fs::create_dir(server.path("outside")).unwrap();
    fs::write(server.path("outside/precious"), "stays").unwrap();

    for (root, folder) in [("/", ""), (".", "home"), ("..", ""), ("/db", "db")] {
        fs::create_dir_all(server.path(folder)).unwrap();
        let link = server.path(folder).join("ltx");
        symlink(server.path("outside"), &link).unwrap();
        let mut config = server.config("");
        config.root = root.to_owned();

        soon(client(config).delete_all()).await.unwrap();

        assert!(link.symlink_metadata().is_err(), "{root}");
        assert!(server.path("outside/precious").exists(), "{root}");
    }
}

#[tokio::test]
async fn a_file_beyond_4_gib_is_listed_and_read() {
    const GIB: u64 = 1 << 30;
    let server = Served::start();
    let client = client(server.config("db"));
    write(&client, 1, &content(0, 1)).await.unwrap();
    let path = server.path("db/ltx/0").join(name(1));
    let sparse = File::options().write(true).open(path).unwrap();
    sparse.write_all_at(b"end", 5 * GIB).unwrap();

    let all = client.list_all(Level::RAW, Txid::FIRST, Timestamps::Fast);
    let size = soon(all).await.unwrap()[0].size;
    let tail = client.read(file(1), (5 * GIB - 1..).into());

    assert_eq!(size, 5 * GIB + 3);
    assert_eq!(soon(tail).await.unwrap(), b"\0end"[..]);
}

#[tokio::test]
async fn a_file_that_is_cut_while_it_is_read_ends_in_an_error() {
    let server = Served::start();
    let client = client(server.config("db"));
    write(&client, 1, &content(16 << 20, 1)).await.unwrap();

    let stream = soon(client.open(file(1), ByteRange::ALL)).await.unwrap();
    let path = server.path("db/ltx/0").join(name(1));
    let opened = File::options().write(true).open(path).unwrap();
    opened.set_len(10 << 20).unwrap();
    let (bytes, end) = support::calls::drain(stream).await;

    let error = end.unwrap_err();
    assert_eq!(bytes, content(10 << 20, 1));
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("ends after 10485760"), "{error}");
}

#[tokio::test]
async fn a_time_that_the_protocol_has_no_form_for_is_invalid_and_others_are_kept() {
    let server = Served::start();
    let client = client(server.config("db"));
    let write = async |second: i64| {
        let time = Timestamp::from_millis(second * 1000 + 1);
        soon(client.write(file(1), time, Body::from(content(10, 1)))).await
    };

    for beyond in [-1, i64::from(u32::MAX) + 1] {
        let error = write(beyond).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
    for known in [0, 1 << 31, i64::from(u32::MAX)] {
        let written = write(known).await.unwrap();
        assert_eq!(written.created_at, Timestamp::from_millis(known * 1000));
        let all = client.list_all(Level::RAW, Txid::FIRST, Timestamps::Exact);
        assert_eq!(soon(all).await.unwrap(), [written]);
    }
}

#[tokio::test]
async fn a_server_that_lists_names_alone_is_asked_for_the_rest() {
    let server = Served::start();
    server.list_names_alone();
    let client = client(server.config("db"));
    for txid in 1..=40 {
        write(&client, txid, &content(txid as usize, 1))
            .await
            .unwrap();
    }
    fs::create_dir(server.path("db/ltx/0").join(name(50))).unwrap();

    let all = client.list_all(Level::RAW, Txid::FIRST, Timestamps::Exact);
    let all = soon(all).await.unwrap();
    server.deny(&format!("/db/ltx/0/{}", name(7)));
    let denied = listed(&client).await;
    server.allow_everything();
    soon(client.delete_all()).await.unwrap();

    assert_eq!(all.len(), 40);
    assert!(all.iter().all(|info| info.created_at == NOON));
    assert_eq!(all[6].size, 7);
    let error = denied.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert!(!server.path("db").exists());
}

#[tokio::test]
async fn no_name_that_the_server_gives_reaches_a_terminal_with_control_characters() {
    let server = Served::start();
    let client = client(server.config("db"));
    write(&client, 1, &content(10, 1)).await.unwrap();
    fs::write(server.path("db/\x1b[31mred\n"), "x").unwrap();

    server.deny("/db/\x1b[31mred\n");
    let error = soon(client.delete_all()).await.unwrap_err();

    let told = error.to_string();
    assert!(told.contains("/db/[31mred: permission denied"), "{told:?}");
    assert!(!told.contains(char::is_control), "{told:?}");
}

/// Such a listing once went on for ever.
#[tokio::test]
async fn a_listing_that_ends_with_no_names_is_at_its_end() {
    let server = Served::start();
    server.end_listings_with_nothing();
    let client = client(server.config("db"));
    write(&client, 1, &content(10, 1)).await.unwrap();

    let there = listed(&client).await;
    soon(client.delete_all()).await.unwrap();

    assert_eq!(there.unwrap(), [1]);
    assert!(!server.path("db").exists());
}

/// A folder that began to change after its time was asked for was once taken to be at rest.
#[tokio::test]
async fn a_folder_at_rest_is_read_once_and_again_where_it_changes_meanwhile() {
    let server = Served::start();
    let client = client(server.config("db"));
    for txid in 1..=3 {
        write(&client, txid, &content(10, 1)).await.unwrap();
    }
    listed(&client).await.unwrap();
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(4)).await;
    tokio::time::resume();

    let readings = server.requests("opendir");
    let at_rest = listed(&client).await.unwrap();
    let once = server.requests("opendir") - readings;
    server.miss_next(&name(2));
    let changing = listed(&client).await.unwrap();

    assert_eq!(at_rest, [1, 2, 3]);
    assert_eq!(once, 1);
    assert_eq!(changing, [1, 2, 3]);
}

#[tokio::test]
async fn streams_that_are_held_keep_nobody_waiting_and_are_closed_when_they_are_dropped() {
    let server = Served::start();
    let client = client(server.config("db").connections_max(1));
    write(&client, 1, &content(2 << 20, 1)).await.unwrap();

    let mut held = Vec::new();
    for _ in 0..50 {
        held.push(soon(client.open(file(1), ByteRange::ALL)).await.unwrap());
    }
    write(&client, 2, &content(10, 2)).await.unwrap();
    let closed = server.requests("close");
    drop(held);

    until("every file's end", || {
        server.requests("close") == closed + 50
    })
    .await;
}
