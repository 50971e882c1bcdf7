//! A network that breaks, stands still or is slow, and a server that goes away, at every stage of
//! a connection and of a call.

mod support;

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::join_all;
use replica_core::{ByteRange, ErrorKind, ReplicaClient, ReplicaClientExt, Result};
use replica_layers::{Backoff, Retry, Timeout, TimeoutSettings};
use replica_sftp::{Login, PrivateKey, SftpClient, SftpConfig};
use support::calls::{
    NOON, client, content, drain, file, listed, read, refusal, soon, stuck, until, write,
};
use support::served::Served;
use testbed::{Direction, Fault, Proxy};

const LIMIT: Duration = Duration::from_secs(1);

/// How much longer than its limit something may take on a busy machine.
const GRACE: Duration = Duration::from_secs(4);

/// A server, and a network before it.
fn far() -> (Served, Proxy) {
    let server = Served::start();
    let network = Proxy::start(server.address());
    (server, network)
}

fn retrying(config: SftpConfig) -> Retry<SftpClient> {
    let backoff = Backoff {
        attempts: NonZeroU32::new(5).expect("five is not zero"),
        pause_min: Duration::from_millis(1),
        pause_max: Duration::from_millis(10),
        ..Backoff::default()
    };
    Retry::new(client(config), backoff)
}

fn reset(direction: Direction, after: u64) -> Fault {
    Fault::Reset { direction, after }
}

fn close(direction: Direction, after: u64) -> Fault {
    Fault::Close { direction, after }
}

fn stall(direction: Direction, after: u64) -> Fault {
    Fault::Stall { direction, after }
}

#[tokio::test]
async fn a_network_that_refuses_connections_at_first_costs_retries() {
    let (server, network) = far();
    let plain = client(server.config_by(&network, "db"));
    let content = content(1000, 1);

    network.next(1, Fault::ResetAtConnect);
    let error = write(&plain, 1, &content).await.unwrap_err();
    network.next(2, Fault::ResetAtConnect);
    let retried = write(&retrying(server.config_by(&network, "db")), 1, &content).await;

    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    retried.unwrap();
    assert_eq!(read(&plain, 1).await.unwrap(), content);
}

#[tokio::test]
async fn two_hundred_failures_leave_a_client_that_works() {
    let (server, network) = far();
    let client = client(server.config_by(&network, "db"));
    network.set(Fault::ResetAtConnect);

    for _ in 0..200 {
        let error = listed(&client).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
    network.clear();

    assert_eq!(listed(&client).await.unwrap(), [0; 0]);
    assert_eq!(server.logins(), 1);
}

#[tokio::test]
async fn a_server_that_hangs_at_any_stage_of_a_login_costs_the_time_limit() {
    // From the first byte of the banner to the last word before the first request, and on to the
    // first answers, for which there is a limit of its own.
    let stages = (0..3000).step_by(200);
    let faults = stages
        .flat_map(|after| [Direction::Up, Direction::Down].map(|way| stall(way, after)))
        .chain([Fault::BlackHole]);

    let hanging = faults.map(|fault| async move {
        let (server, network) = far();
        network.set(fault);
        let config = server
            .config_by(&network, "db")
            .connect_timeout(LIMIT)
            .stall_timeout(LIMIT);
        let begun = Instant::now();
        let listed = listed(&client(config)).await;
        (fault, listed, begun.elapsed())
    });

    let mut hung = 0;
    for (fault, listed, took) in join_all(hanging).await {
        assert!(took < 2 * LIMIT + GRACE, "{fault:?} took {took:?}");
        match listed {
            // All of it took fewer bytes than that.
            Ok(listed) => assert_eq!(listed, [0; 0], "{fault:?}"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{fault:?}: {error}");
                hung += 1;
            }
        }
    }
    assert!(hung > 15, "only {hung} of the servers hung");
}

#[tokio::test]
async fn a_server_that_breaks_off_at_any_stage_of_a_login_is_told_at_once() {
    let stages = [0, 5, 100, 600, 1000, 1500];
    let faults = stages.into_iter().flat_map(|after| {
        let ways = [Direction::Up, Direction::Down];
        ways.into_iter()
            .flat_map(move |way| [reset(way, after), close(way, after)])
    });

    for fault in faults {
        let (server, network) = far();
        network.set(fault);
        let begun = Instant::now();
        let error = refusal(server.config_by(&network, "db")).await;

        assert!(begun.elapsed() < GRACE, "{fault:?}: {:?}", begun.elapsed());
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{fault:?}: {error}");
    }
}

/// Where the answer to a key was not heard, the login was once told as refused.
#[tokio::test]
async fn a_server_that_breaks_off_when_it_was_shown_a_key_has_not_refused_it() {
    let stages = (1000..4000).step_by(100);
    let faults =
        stages.flat_map(|after| [Direction::Up, Direction::Down].map(|way| reset(way, after)));

    let mut shown = 0;
    for fault in faults {
        let (server, network) = far();
        network.set(fault);
        let mut config = server.config_by(&network, "db");
        config.logins = vec![Login::Key {
            key: PrivateKey::Text(server.authorize_new()),
            passphrase: None,
        }];
        // Later faults let the whole call pass.
        if let Err(error) = listed(&client(config)).await {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{fault:?}: {error}");
            shown += server.logins();
        }
    }
    assert!(shown > 3, "only {shown} connections broke that late");
}

#[tokio::test]
async fn a_read_that_breaks_at_any_byte_is_an_error_after_the_right_bytes() {
    let (server, network) = far();
    let client = client(server.config_by(&network, "db"));
    let content = content(3 << 20, 1);
    write(&client, 1, &content).await.unwrap();

    for after in [0, 50, 400, 300_000, 700_000, 2 << 20] {
        for fault in [
            reset(Direction::Down, after),
            close(Direction::Down, after),
            reset(Direction::Up, after),
        ] {
            network.set(fault);
            let (bytes, end) = match soon(client.open(file(1), ByteRange::ALL)).await {
                Ok(stream) => drain(stream).await,
                Err(error) => (Vec::new(), Err(error)),
            };
            network.clear();

            assert_eq!(bytes, content[..bytes.len()], "{fault:?}");
            match end {
                Ok(()) => assert_eq!(bytes.len(), content.len(), "{fault:?}"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
            }
            assert_eq!(read(&client, 1).await.unwrap().len(), content.len());
        }
    }
}

#[tokio::test]
async fn a_reader_whose_connection_was_closed_while_it_paused_goes_on_where_it_was() {
    let server = Served::start();
    let client = retrying(server.config("db"));
    let content = content(9 << 20, 1);
    write(&client, 1, &content).await.unwrap();

    let mut stream = soon(client.open(file(1), ByteRange::ALL)).await.unwrap();
    let mut bytes = soon(stream.try_next()).await.unwrap().unwrap().to_vec();
    server.reset_connections();
    let (rest, end) = drain(stream).await;
    bytes.extend(rest);

    end.unwrap();
    assert_eq!(bytes, content);
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_write_whose_answers_are_lost_at_any_byte_leaves_one_whole_file_when_it_is_retried() {
    let (server, network) = far();
    let config = server.config_by(&network, "db");
    let client = retrying(config.connections_max(1));
    write(&client, 1, &content(10, 0)).await.unwrap();

    for after in (0..1000).step_by(45) {
        let content = content(70_000, after as u8);
        // The request that publishes the file is done, and nobody hears of it, at one of these.
        network.set(reset(Direction::Down, after));
        let lost = write(&client, 2, &content).await;
        network.clear();
        let written = match lost {
            Ok(()) => Ok(()),
            Err(_) => write(&client, 2, &content).await,
        };

        written.unwrap();
        assert_eq!(read(&client, 2).await.unwrap(), content, "{after}");
    }
    // Answered in order, so that all that was to be cleared away before is.
    assert_eq!(listed(&client).await.unwrap(), [1, 2]);
    until("the end of temporary files", || server.names().len() == 2).await;
}

const CALLS: [&str; 6] = ["list", "open", "write", "overwrite", "delete", "delete_all"];

/// What a call of any kind comes to.
async fn any_call(client: &impl ReplicaClient, name: &str, content: &Bytes) -> Result<()> {
    match name {
        "list" => listed(client).await.map(|_| ()),
        "open" => read(client, 1).await.map(|_| ()),
        "write" => write(client, 2, content).await,
        "overwrite" => write(client, 1, content).await,
        "delete" => soon(client.delete(&[file(1), file(2)])).await,
        _ => soon(client.delete_all()).await,
    }
}

#[tokio::test]
async fn a_server_that_goes_away_during_any_call_costs_that_call_and_leaves_nothing_half_there() {
    let (server, network) = far();
    let config = server.config_by(&network, "db");
    let client = client(config.connections_max(1));
    let (old, new) = (content(100_000, 1), content(90_000, 2));

    for call in CALLS {
        for (way, after) in [0, 40, 150, 300, 600, 2000]
            .into_iter()
            .flat_map(|after| [(Direction::Up, after), (Direction::Down, after)])
        {
            soon(client.delete_all()).await.unwrap();
            write(&client, 1, &old).await.unwrap();

            network.set(reset(way, after));
            let result = any_call(&client, call, &new).await;
            network.close();
            network.clear();
            network.reopen();

            let told = format!("{call} with {way:?} cut after {after}");
            if let Err(error) = result {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{told}: {error}");
            }
            // What was idle when it was cut may not know that yet.
            let there = match listed(&client).await {
                Ok(there) => there,
                Err(_) => listed(&client).await.expect(&told),
            };
            for txid in there {
                let content = read(&client, txid).await.expect(&told);
                let is_whole = match (call, txid) {
                    ("overwrite", _) => content == old || content == new,
                    (_, 1) => content == old,
                    _ => content == new,
                };
                assert!(is_whole, "{told}: {txid} is half there");
            }
            let has_no_litter = || server.names().iter().all(|name| name.ends_with(".ltx"));
            until(&format!("no litter after {told}"), has_no_litter).await;
        }
    }
}

#[tokio::test]
async fn a_server_that_is_gone_is_told_and_one_that_came_back_is_used() {
    let server = Served::start();
    let client = client(server.config("db"));
    write(&client, 1, &content(10, 1)).await.unwrap();

    server.close();
    // The first may still use the connection that was reset.
    let _ = listed(&client).await;
    let error = listed(&client).await.unwrap_err();
    server.reopen();

    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("nobody listens"), "{error}");
    assert_eq!(listed(&client).await.unwrap(), [1]);
}

#[tokio::test]
async fn a_transfer_that_stands_still_is_given_up() {
    let (server, network) = far();
    let config = server.config_by(&network, "db").stall_timeout(LIMIT);
    let client = client(config);
    let content = content(3 << 20, 1);
    write(&client, 1, &content).await.unwrap();

    for after in [0, 500_000] {
        network.set(stall(Direction::Down, after));
        let begun = Instant::now();
        let result = read(&client, 1).await;
        let reading = begun.elapsed();
        network.clear();
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Unavailable);

        listed(&client).await.unwrap();
        network.set(stall(Direction::Up, after));
        let begun = Instant::now();
        let result = write(&client, 2, &content).await;
        let writing = begun.elapsed();
        network.clear();
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Unavailable);

        for took in [reading, writing] {
            assert!(took >= LIMIT, "it was given up after {took:?}");
            assert!(took < LIMIT + GRACE, "it took {took:?}");
        }
    }
    assert_eq!(listed(&client).await.unwrap(), [1]);
}

/// What such a connection had left was once remembered only after a goodbye of two seconds, by
/// when the next connection had been opened.
#[tokio::test]
async fn what_a_connection_that_stops_within_a_packet_has_left_is_cleared_away_by_the_next() {
    let (server, network) = far();
    let config = server.config_by(&network, "db").stall_timeout(LIMIT);
    let client = client(config.connections_max(1));
    write(&client, 1, &content(10, 1)).await.unwrap();

    network.set(stall(Direction::Up, 500_000));
    let error = write(&client, 2, &content(24 << 20, 2)).await.unwrap_err();
    network.clear();
    let listed = listed(&client).await;

    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert_eq!(listed.unwrap(), [1]);
    until("the end of the temporary file", || {
        server.names().len() == 1
    })
    .await;
}

#[tokio::test]
async fn a_slow_transfer_that_gets_on_is_not_cut() {
    let (server, network) = far();
    let config = server.config_by(&network, "db").stall_timeout(LIMIT);
    let client = client(config);
    let content = content(400_000, 1);
    listed(&client).await.unwrap();
    network.set(Fault::Throttle {
        bytes_per_second: 200_000,
    });

    let begun = Instant::now();
    let written = write(&client, 1, &content).await;
    let read = read(&client, 1).await;

    written.unwrap();
    assert_eq!(read.unwrap(), content);
    assert!(begun.elapsed() > 2 * LIMIT, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_time_limit_around_a_call_is_kept_though_the_server_stands_still() {
    const SHORT: Duration = Duration::from_millis(200);
    let (server, network) = far();
    let inner = client(server.config_by(&network, "db"));
    let content = content(3 << 20, 1);
    write(&inner, 1, &content).await.unwrap();
    let settings = TimeoutSettings {
        call: SHORT,
        stall: SHORT,
        body: SHORT,
        delete_all: SHORT,
    };
    let client = Timeout::new(inner, settings);
    network.set(stall(Direction::Down, 0));

    for call in CALLS {
        let begun = Instant::now();
        let error = any_call(&client, call, &content).await.unwrap_err();
        let took = begun.elapsed();

        assert_eq!(error.kind(), ErrorKind::Unavailable, "{call}: {error}");
        assert!(
            took < SHORT + Duration::from_secs(1),
            "{call} took {took:?}"
        );
    }
}

#[tokio::test]
async fn a_dead_connection_is_found_out_while_nobody_uses_it() {
    let (server, network) = far();
    let config = server
        .config_by(&network, "db")
        .keepalive(Duration::from_millis(50))
        .stall_timeout(Duration::from_millis(200));
    let client = client(config);
    write(&client, 1, &content(10, 1)).await.unwrap();

    let asked = server.requests("realpath");
    until("a question whether the server is there", || {
        server.requests("realpath") > asked + 1
    })
    .await;
    let connections = network.connections();
    network.set(stall(Direction::Down, 0));
    until("the end of the connection", || {
        server.live_connections() == 0
    })
    .await;
    network.clear();

    assert_eq!(connections, 1, "a connection that answers is kept");
    assert_eq!(listed(&client).await.unwrap(), [1]);
}

#[tokio::test]
async fn no_more_connections_are_opened_than_allowed() {
    let server = Served::start();
    let client = client(server.config("db").connections_max(3));
    let content = content(100_000, 1);

    while server.connections() < 3 {
        let writes = (1..=16).map(|txid| write(&client, txid, &content));
        let written: Result<Vec<()>> = join_all(writes).await.into_iter().collect();
        written.unwrap();
    }
    let writes = (1..=64).map(|txid| write(&client, txid, &content));
    let written: Result<Vec<()>> = join_all(writes).await.into_iter().collect();
    drop(client);

    written.unwrap();
    assert_eq!(server.connections(), 3);
    until("the end of connections nobody needs", || {
        server.live_connections() == 0
    })
    .await;
}

/// Each shared call once logged in anew in the background, until a server locks the user out.
#[tokio::test]
async fn one_more_connection_that_is_refused_is_tried_again_after_a_while() {
    let (server, network) = far();
    let client = client(server.config_by(&network, "db"));
    write(&client, 1, &content(10, 1)).await.unwrap();
    let stream = soon(client.open(file(1), ByteRange::ALL)).await.unwrap();
    network.set(Fault::ResetAtConnect);

    listed(&client).await.unwrap();
    until("an attempt", || network.connections() == 2).await;
    for _ in 0..200 {
        listed(&client).await.unwrap();
    }
    let connections = network.connections();
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    tokio::time::resume();
    listed(&client).await.unwrap();
    until("another attempt", || network.connections() == 3).await;
    drop(stream);

    assert_eq!(connections, 2);
}

#[tokio::test]
async fn a_small_range_of_a_large_file_moves_little() {
    let (server, network) = far();
    let client = client(server.config_by(&network, "db"));
    let content = content(32 << 20, 1);
    write(&client, 1, &content).await.unwrap();

    let before = network.bytes(Direction::Down);
    let start = 20 << 20;
    let range = start as u64..start as u64 + 65_536;
    let part = soon(client.read(file(1), range.into())).await.unwrap();
    let moved = network.bytes(Direction::Down) - before;

    assert_eq!(part, content[start..start + 65_536]);
    assert!(moved < 1 << 20, "{moved} bytes came");
}

#[tokio::test]
async fn a_listing_that_breaks_is_an_error_and_never_a_short_one() {
    let (server, network) = far();
    let client = client(server.config_by(&network, "db"));
    server.set_page_max(7);
    write(&client, 1, &content(10, 1)).await.unwrap();
    for txid in 2..=300 {
        std::fs::write(
            server.path("db/ltx/0").join(file(txid).txids.to_string()),
            "x",
        )
        .unwrap();
    }

    let mut broken = 0;
    for after in (0..20_000).step_by(1000) {
        network.set(reset(Direction::Down, after));
        let result = listed(&client).await;
        network.clear();

        match result {
            Ok(listed) => assert_eq!(listed.len(), 300, "cut after {after}"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                broken += 1;
            }
        }
        let _ = listed(&client).await;
    }
    assert!(broken > 10, "only {broken} listings were cut");
}

#[tokio::test]
async fn a_write_that_nobody_waits_for_any_more_is_gone_soon() {
    let server = Served::start();
    let client = client(server.config("db"));
    let (gate, closed) = tokio::sync::oneshot::channel();
    let body = stuck(content(500_000, 1), closed);
    {
        let mut writing = std::pin::pin!(client.write(file(1), NOON, body));
        let begun = until("a temporary file", || server.names().len() == 1);
        tokio::select! {
            _ = &mut writing => panic!("its body has not ended"),
            () = begun => {}
        }
    }

    until("the end of the temporary file", || {
        server.names().is_empty()
    })
    .await;
    drop(gate);

    assert_eq!(listed(&client).await.unwrap(), [0; 0]);
}
