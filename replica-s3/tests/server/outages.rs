//! Servers that go away and come back.

#[path = "../../examples/s3_outage/scenario.rs"]
mod scenario;

use replica_core::async_trait;

use super::*;

/// K24: the server is killed during each operation, and comes back.
#[tokio::test]
async fn after_a_server_has_come_back_the_next_call_works() {
    let (server, proxy, client) = proxied();
    write(&client, 1, 100).await.unwrap();
    for direction in [Direction::Up, Direction::Down] {
        proxy.set(Fault::Reset {
            direction,
            after: 100,
        });
        drop(names(&client, Timestamps::Exact).await);
        drop(client.read(raw(1), (..).into()).await);
        drop(write(&client, 2, 6 * MIB).await);
        drop(client.delete(&[raw(2)]).await);
        drop(client.delete_all().await);
        proxy.close();
        write(&client, 3, 10).await.unwrap_err();
        proxy.reopen();
        proxy.clear();

        write(&client, 1, 6 * MIB).await.unwrap();
        assert_eq!(
            client.read(raw(1), (..10).into()).await.unwrap(),
            content(10)
        );
        client.delete(&[raw(1)]).await.unwrap();
        client.delete_all().await.unwrap();
        assert!(names(&client, Timestamps::Exact).await.unwrap().is_empty());
        assert!(server.keys().is_empty());
        until("no upload stays open", || server.open_uploads().is_empty()).await;
        write(&client, 1, 100).await.unwrap();
    }
}

/// FLT-01, K24: an idle connection that the server has closed shows it only when it is used.
#[tokio::test]
async fn a_connection_that_breaks_before_the_answer_costs_one_request_more() {
    let (_server, relay, client) = relayed();
    let break_next = |times| {
        let broken = Answer::none(End::Reset);
        relay.on(|_| true).times(times).answer(broken);
    };

    break_next(1);
    write(&client, 1, 10).await.unwrap();
    break_next(1);
    let read = client.read(raw(1), (..).into()).await.unwrap();
    break_next(1);
    let listed = names(&client, Timestamps::Fast).await.unwrap();
    break_next(1);
    client.delete(&[raw(1)]).await.unwrap();
    let requests = relay.take_requests().len();
    break_next(2);
    let error = names(&client, Timestamps::Fast).await.unwrap_err();

    assert_eq!(read, content(10));
    assert_eq!(listed.len(), 1);
    assert_eq!(requests, 8);
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert_eq!(relay.requests().len(), 2);
}

/// FLT-01, FLT-06: each call, through the layer that tries again.
#[tokio::test]
async fn what_fails_for_a_while_is_tried_again_and_what_fails_for_good_ends_soon() {
    for answer in [
        Answer::none(End::Reset),
        Answer::none(End::Close),
        Answer::s3_error(503, "SlowDown"),
        Answer::new(429),
        Answer::new(408),
        Answer::s3_error(499, "RequestCanceled"),
    ] {
        let (_server, relay, client) = relayed();
        let client = retried(client);
        let fail = |times| relay.on(|_| true).times(times).answer(answer.clone());

        fail(3);
        client
            .write(raw(1), NOON, content(10).into())
            .await
            .unwrap();
        fail(3);
        let read = client.read(raw(1), (..).into()).await.unwrap();
        fail(3);
        let listed = client
            .list_all(Level::RAW, Txid::FIRST, Timestamps::Exact)
            .await;
        fail(3);
        client.delete(&[raw(1)]).await.unwrap();
        fail(3);
        client.delete_all().await.unwrap();
        fail(u64::MAX);
        let begun = Instant::now();
        let error = client.read(raw(1), (..).into()).await.unwrap_err();

        assert_eq!(read, content(10));
        assert_eq!(listed.unwrap().len(), 1);
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{answer:?}");
    }
}

/// FLT-12: some clients have a quota for trying again that failures use up for good.
#[tokio::test]
async fn after_two_hundred_failures_a_store_is_used_as_before() {
    let (server, relay, client) = relayed();
    relay
        .on(|_| true)
        .times(200)
        .answer(Answer::s3_error(503, "SlowDown"));
    for _ in 0..200 {
        write(&client, 1, 10).await.unwrap_err();
    }

    relay
        .on(|request| request.parameter("partNumber").is_some())
        .times(2)
        .answer(Answer::s3_error(503, "SlowDown"));
    write(&client, 1, 6 * MIB).await.unwrap();

    assert!(server.object(KEY_1).unwrap().bytes() == content(6 * MIB));
    assert_eq!(names(&client, Timestamps::Exact).await.unwrap().len(), 1);
}

/// K11, K24: killed in the middle of each operation, as the example does it to a real server.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_during_an_operation_leaves_nothing_half_done() {
    let mut server = S3Server::start();
    let proxy = Proxy::start(server.address());
    let config = config(&server, &format!("http://{}", proxy.address()));
    let client = S3Client::new(config.part_size(scenario::PART_SIZE)).expect("a client");

    scenario::run(&client, &proxy, &mut server).await;
}

#[async_trait]
impl scenario::Server for S3Server {
    async fn kill(&mut self) {
        self.close();
    }

    async fn start(&mut self) {
        self.reopen();
    }

    async fn open_uploads(&mut self) -> usize {
        S3Server::open_uploads(self).len()
    }
}
