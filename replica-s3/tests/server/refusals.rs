//! Servers that say no, or nothing, and configurations that can't be meant.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// ERR-02, ERR-03, ERR-04, ERR-06, K4, K21.
#[tokio::test]
async fn each_refusal_has_its_kind_at_once_and_says_what_to_do() {
    use ErrorKind::{Invalid, NotFound, Other, PermissionDenied, Unavailable};
    for (status, code, kind, says) in [
        (404, "NoSuchKey", NotFound, "no such file"),
        (404, "NoSuchBucket", Invalid, "no bucket"),
        (404, "", Invalid, "address of a store"),
        (403, "AccessDenied", PermissionDenied, "permissions"),
        (403, "InvalidAccessKeyId", PermissionDenied, "access key"),
        (403, "SignatureDoesNotMatch", PermissionDenied, "secret key"),
        (400, "ExpiredToken", PermissionDenied, "expired"),
        (403, "RequestTimeTooSkewed", Invalid, "clocks"),
        (301, "PermanentRedirect", Invalid, "region"),
        (400, "AuthorizationHeaderMalformed", Invalid, "region"),
        (400, "InvalidArgument", Invalid, "InvalidArgument"),
        (503, "SlowDown", Unavailable, "fewer requests"),
        (400, "RequestTimeout", Unavailable, "waited"),
        (499, "RequestCanceled", Unavailable, "waited"),
        (408, "", Unavailable, "later"),
        (429, "", Unavailable, "later"),
        (500, "InternalError", Unavailable, "out of order"),
        (502, "", Unavailable, "out of order"),
        (504, "", Unavailable, "out of order"),
        (507, "XMinioStorageFull", Other, "full"),
    ] {
        let server = S3Server::start();
        let fake = Scripted::handling(move |_| Answer::s3_error(status, code));
        let client = S3Client::new(config(&server, &fake.endpoint())).unwrap();

        let opened = client.open(raw(1), (..).into()).await.err().unwrap();
        let written = write(&client, 1, 10).await.unwrap_err();
        let deleted = client.delete(&[raw(1)]).await;

        for error in [opened, written] {
            assert_eq!(error.kind(), kind, "{status} {code}: {error}");
            assert!(error.to_string().contains(says), "{error}");
        }
        if !matches!(status, 404) {
            assert_eq!(deleted.unwrap_err().kind(), kind, "{status} {code}");
        }
        let listed = names(&client, Timestamps::Fast).await;
        let reason = "a refusal never looks like an empty listing";
        assert_eq!(listed.expect_err(reason).kind(), kind, "{status} {code}");
        // Trying again is for the layers.
        assert_eq!(fake.requests().len(), 4, "{status} {code}");
    }
}

/// ERR-02, ERR-03 against a server that has a bucket and a key, and not these.
#[tokio::test]
async fn a_wrong_bucket_and_a_wrong_key_are_told_apart() {
    let server = S3Server::start();
    let mut lost = config(&server, &server.endpoint());
    lost.bucket = "nobodys".to_owned();
    let stranger = config(&server, &server.endpoint())
        .credentials(Credentials::new(server.access_key(), "wrong-secret"));

    for (config, kind) in [
        (lost, ErrorKind::Invalid),
        (stranger, ErrorKind::PermissionDenied),
    ] {
        let client = S3Client::new(config).unwrap();
        let open = client.open(raw(1), (..).into()).await.err().unwrap();
        let empty = client.open(raw(1), (1..1).into()).await.err().unwrap();
        let list = names(&client, Timestamps::Exact).await.unwrap_err();
        let put = write(&client, 1, 10).await.unwrap_err();
        let large = write(&client, 1, 6 * MIB).await.unwrap_err();
        let delete = client.delete(&[raw(1)]).await.unwrap_err();
        let all = client.delete_all().await.unwrap_err();

        for error in [open, empty, list, put, large, delete, all] {
            assert_eq!(error.kind(), kind, "{error}");
            assert!(!format!("{error:?}").contains("wrong-secret"));
        }
    }
}

#[tokio::test]
async fn the_right_region_and_both_clocks_are_said() {
    let server = S3Server::start();
    let fake = Scripted::start();
    fake.on(|request| request.method == "GET").answer(
        Answer::s3_error(301, "PermanentRedirect").header("x-amz-bucket-region", "eu-north-1"),
    );
    fake.on(|request| request.method == "PUT")
        .answer(Answer::new(403).body(
            "<Error><Code>RequestTimeTooSkewed</Code><RequestTime>20200101T000000Z</RequestTime>\
         <ServerTime>2026-11-21T12:00:00Z</ServerTime></Error>",
        ));
    let client = S3Client::new(config(&server, &fake.endpoint())).unwrap();

    let region = client.open(raw(1), (..).into()).await.err().unwrap();
    let clock = write(&client, 1, 1).await.unwrap_err();

    assert!(region.to_string().contains("eu-north-1"), "{region}");
    for time in ["20200101T000000Z", "2026-11-21T12:00:00Z"] {
        assert!(clock.to_string().contains(time), "{clock}");
    }
}

/// ERR-07, K23.
#[tokio::test]
async fn a_dead_host_fails_within_the_time_to_connect() {
    let server = S3Server::start();
    for (endpoint, says) in [
        // An address that nobody has (RFC 5737), and a name that nobody has (RFC 2606).
        ("http://192.0.2.1:9000", ""),
        ("http://replica.invalid", ""),
        ("http://127.0.0.1:1", "nobody listens"),
    ] {
        let config = config(&server, endpoint).connect_timeout(Duration::from_secs(1));
        let client = S3Client::new(config).unwrap();
        let begun = Instant::now();

        let error = write(&client, 1, 6 * MIB).await.unwrap_err();

        assert!(
            begun.elapsed() < Duration::from_secs(2),
            "{endpoint}: {:?}",
            begun.elapsed()
        );
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[tokio::test]
async fn a_server_without_tls_is_invalid() {
    let (server, proxy, _) = proxied();
    let endpoint = format!("https://{}", proxy.address());
    let client = S3Client::new(config(&server, &endpoint)).unwrap();

    let error = write(&client, 1, 1).await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    assert!(error.to_string().contains("does not speak TLS"), "{error}");
}

#[test]
fn what_can_not_be_a_configuration_is_invalid_and_says_why() {
    let good = || S3Config::new("bucket").credentials(Credentials::new("key-id", "its-secret"));
    for (config, says) in [
        (S3Config::new(""), "missing"),
        (S3Config::new("a b"), "no name"),
        (S3Config::new("logs--use1-az4--x-s3"), "directory bucket"),
        (good().endpoint("http://minio:9000"), "plain HTTP"),
        (good().endpoint("ftp://minio"), "https"),
        (good().endpoint("https://its-secret@minio"), "credentials"),
        (
            good().endpoint("https://key:its-secret/more@minio"),
            "credentials",
        ),
        (good().endpoint("https://"), "endpoint"),
        (good().endpoint("https://10.0.0.256:9000"), "no address"),
        (good().endpoint("https://minio:99999"), "endpoint"),
        (
            good()
                .endpoint("https://10.0.0.1")
                .addressing(Addressing::VirtualHost),
            "no address",
        ),
        (good().storage_class("STANDARD\nIA"), "storage class"),
        (good().storage_class("STÄNDIG"), "storage class"),
        (good().prefix("a/../b"), "`..`"),
        (good().prefix("a\nb"), "control"),
        (good().prefix(&"x".repeat(1000)), "long"),
        (good().part_size(1), "part size"),
        (good().stall_timeout(Duration::ZERO), "stall"),
        (good().tls(Tls::Trusting(b"no certificate".to_vec())), "PEM"),
        (
            good().credentials(Credentials::new("key-id", "its-secret\n")),
            "secret key",
        ),
    ] {
        let error = S3Client::new(config).unwrap_err();

        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains(says), "{error}");
        assert!(!format!("{error:?}").contains("its-secret"), "{error:?}");
    }
}

/// What can't be an address made the library behind panic at the first request.
#[test]
fn a_source_of_credentials_without_an_address_is_invalid_and_says_why() {
    let instance = |endpoint: &str| Credentials::Instance {
        endpoint: Some(endpoint.to_owned()),
    };
    let task = |uri: &str| Credentials::Task {
        relative_uri: uri.to_owned(),
    };
    let pod = |uri: &str| Credentials::Pod {
        full_uri: uri.to_owned(),
        token_file: "/token".into(),
    };
    let web = |endpoint: &str| Credentials::WebIdentity {
        token_file: "/token".into(),
        role_arn: "role".to_owned(),
        session_name: None,
        endpoint: Some(endpoint.to_owned()),
    };
    for (credentials, says) in [
        (instance("169.254.169.254"), Some("instance metadata")),
        (instance("http://10.0.0.256"), Some("instance metadata")),
        (instance("http://169.254.169.254/"), None),
        (instance("http://[fd00:ec2::254]"), None),
        (task("/v2 /its-secret"), Some("container credentials")),
        (task("its-secret"), Some("container credentials")),
        (task("/v2/credentials"), None),
        (pod("169.254.170.23/its-secret"), Some("pod identity")),
        (
            pod("http://169.254.170.23/v1 /its-secret"),
            Some("pod identity"),
        ),
        (pod("http://169.254.170.23/v1"), None),
        (web("sts.eu-west-1.amazonaws.com"), Some("token service")),
        (
            web("http://sts.eu-west-1.amazonaws.com"),
            Some("token service"),
        ),
        (web("https://sts.eu-west-1.amazonaws.com"), None),
    ] {
        let shown = format!("{credentials:?}");

        let client = S3Client::new(S3Config::new("bucket").credentials(credentials));

        match says {
            None => drop(client.expect(&shown)),
            Some(says) => {
                let error = client.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
                assert!(error.to_string().contains(says), "{error}");
                assert!(!format!("{error:?}").contains("its-secret"), "{error:?}");
            }
        }
    }
}

/// What a source of credentials says goes into the next request to it. `object_store` panicked, of
/// which a program heard by its hook though nothing was wrong with it.
#[tokio::test]
async fn a_source_of_credentials_that_says_what_can_not_be_sent_is_an_error_and_no_panic() {
    let panics = Arc::new(AtomicUsize::new(0));
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new({
        let panics = Arc::clone(&panics);
        move |panic| {
            panics.fetch_add(1, Ordering::Relaxed);
            hook(panic);
        }
    }));
    let server = S3Server::start();
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let token_file = folder.path().join("token");
    std::fs::write(&token_file, "two\nlines").expect("a file can be written");
    let no_token = Scripted::handling(|_| Answer::new(200).body("two\nlines"));
    let no_role = Scripted::handling(|request| match request.path.as_str() {
        "/latest/api/token" => Answer::new(200).body("token"),
        _ => Answer::new(200).body("a <role>"),
    });
    let instance = |metadata: &Scripted| Credentials::Instance {
        endpoint: Some(metadata.endpoint()),
    };
    let pod = Credentials::Pod {
        full_uri: no_token.endpoint(),
        token_file,
    };
    for credentials in [instance(&no_token), instance(&no_role), pod] {
        let config = config(&server, &server.endpoint()).credentials(credentials);
        let client = S3Client::new(config).unwrap();

        for size in [10, 6 * MIB] {
            let error = write(&client, 1, size).await.unwrap_err();

            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        }
    }
    assert_eq!(panics.load(Ordering::Relaxed), 0);
}

/// The environment's proxy got the credentials of a role in plain text.
#[tokio::test]
async fn the_role_of_this_machine_is_asked_for_without_the_proxy() {
    let server = S3Server::start();
    let metadata = Scripted::handling(|request| match request.path.as_str() {
        "/latest/api/token" => Answer::new(200).body("token"),
        path if path.ends_with('/') => Answer::new(200).body("role"),
        _ => Answer::new(500),
    });
    let proxy = Scripted::handling(|_| Answer::new(500));
    let instance = Credentials::Instance {
        endpoint: Some(metadata.endpoint()),
    };
    let config = config(&server, &server.endpoint()).credentials(instance);
    let client = S3Client::new(config.proxy(&proxy.endpoint())).unwrap();

    let error = write(&client, 1, 10).await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert!(metadata.requests().len() >= 3);
    assert!(proxy.requests().is_empty());
}

/// A token service is asked as the store is: through the proxy, by the same authorities.
#[tokio::test]
async fn a_token_service_is_trusted_as_the_store_is() {
    let server = S3Server::start();
    let service = Scripted::handling(|_| Answer::new(403));
    let relay = TlsRelay::before(service.address());
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let token_file = folder.path().join("token");
    std::fs::write(&token_file, "token").expect("a file can be written");
    let web = Credentials::WebIdentity {
        token_file,
        role_arn: "role".to_owned(),
        session_name: None,
        endpoint: Some(relay.endpoint()),
    };
    let config = config(&server, &server.endpoint()).credentials(web);
    for (tls, asked) in [
        (Tls::System, false),
        (Tls::Trusting(relay.authority().into()), true),
    ] {
        service.take_requests();
        let client = S3Client::new(config.clone().tls(tls)).unwrap();

        let error = write(&client, 1, 10).await.unwrap_err();

        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        assert_eq!(!service.take_requests().is_empty(), asked);
    }
}

/// K22.
#[test]
fn no_secret_is_in_a_debug_text() {
    for secret in ["its-secret", "its-secret/more", "its-secret@more"] {
        let config = S3Config::new("bucket").endpoint(&format!("https://user:{secret}@minio"));

        let shown = format!("{config:?}");

        assert!(shown.contains("https://minio"), "{shown}");
        assert!(
            !shown.contains("secret") && !shown.contains("more"),
            "{shown}"
        );
    }

    let config = S3Config::new("bucket")
        .endpoint("https://user:its-secret@minio")
        .encryption(Encryption::Customer { key: [b'k'; 32] })
        .credentials(Credentials::Static {
            access_key_id: "key-id".to_owned(),
            secret_access_key: "its-secret".to_owned(),
            session_token: Some("its-secret-token".to_owned()),
        });

    let shown = format!("{config:?}");
    let client = format!(
        "{:?}",
        S3Client::new(config.endpoint("https://minio")).unwrap()
    );

    for text in [shown, client] {
        assert!(
            !text.contains("its-secret") && !text.contains("107, 107"),
            "{text}"
        );
    }
}

/// ERR-07, K23: a TLS handshake is a part of connecting, and an answer has a time of its own.
#[tokio::test]
async fn a_host_that_takes_connections_and_never_speaks_fails_in_time() {
    let (server, proxy, _) = proxied();
    proxy.set(Fault::BlackHole);
    let limit = Duration::from_secs(1);
    let plain = config(&server, &format!("http://{}", proxy.address()));
    let secure = config(&server, &format!("https://{}", proxy.address()));
    for (config, says) in [
        (plain.request_timeout(limit), "silent"),
        (secure.connect_timeout(limit), "in time"),
    ] {
        let client = S3Client::new(config).unwrap();
        let begun = Instant::now();

        let error = client.open(raw(1), (..).into()).await.err().unwrap();

        let took = begun.elapsed();
        assert!(took < 2 * limit, "{took:?}: {error}");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
}

/// ERR-04: an answer to HEAD has no body that could say why.
#[tokio::test]
async fn times_that_may_not_be_looked_at_are_no_empty_listing() {
    let (_server, relay, client) = relayed();
    write(&client, 1, 10).await.unwrap();
    relay
        .on(|request| request.method == "HEAD")
        .answer(Answer::new(403));
    relay
        .on(|request| request.path.ends_with(".ltx"))
        .answer(Answer::s3_error(403, "AccessDenied"));

    let error = names(&client, Timestamps::Exact).await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert_eq!(error.files(), [raw(1)]);
}

/// K4, K10: an answer to HEAD does not say whether a file is gone or all of the bucket, and a
/// listing ended short as if the files had been deleted meanwhile.
#[tokio::test]
async fn files_of_a_bucket_that_vanishes_are_not_left_out_of_a_listing() {
    for (code, kind) in [
        ("NoSuchKey", None),
        ("NoSuchBucket", Some(ErrorKind::Invalid)),
        ("", Some(ErrorKind::Invalid)),
    ] {
        let (_server, relay, client) = relayed();
        write(&client, 1, 10).await.unwrap();
        write(&client, 2, 10).await.unwrap();
        let of_second = name(2);
        let is_second = of_second.clone();
        relay
            .on(move |request| request.method == "HEAD" && request.path.ends_with(&is_second))
            .answer(Answer::new(404));
        relay
            .on(move |request| request.method == "GET" && request.path.ends_with(&of_second))
            .answer(Answer::s3_error(404, code));

        let listed = names(&client, Timestamps::Exact).await;

        match kind {
            None => assert_eq!(listed.unwrap().len(), 1),
            Some(kind) => {
                let error = listed.unwrap_err();
                assert_eq!(error.kind(), kind, "{error}");
                assert_eq!(error.files(), [raw(2)]);
            }
        }
    }
}

#[tokio::test]
async fn a_certificate_is_trusted_as_configured_and_no_further() {
    let server = S3Server::start();
    let (relay, other) = (
        TlsRelay::before(server.address()),
        TlsRelay::before(server.address()),
    );
    let own = Tls::Trusting(relay.authority().into());
    // The certificate is not for this name.
    let by_name = relay.endpoint().replace("127.0.0.1", "localhost");
    for (tls, endpoint, is_trusted) in [
        (own.clone(), relay.endpoint(), true),
        (Tls::Unchecked, relay.endpoint(), true),
        (Tls::Unchecked, by_name.clone(), true),
        (Tls::System, relay.endpoint(), false),
        (own.clone(), other.endpoint(), false),
        (own, by_name, false),
    ] {
        let case = format!("{tls:?} at {endpoint}");
        let config = config(&server, &endpoint).allow_http(false).tls(tls);
        let client = S3Client::new(config).unwrap();
        let requests = server.requests_in_all();

        let small = write(&client, 1, 10).await;
        let large = write(&client, 2, 6 * MIB).await;
        let read = client.read(raw(2), (..).into()).await;

        if is_trusted {
            small.and(large).expect(&case);
            assert!(read.expect(&case) == content(6 * MIB), "{case}");
            continue;
        }
        for error in [small.unwrap_err(), large.unwrap_err(), read.unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::Invalid, "{case}: {error}");
            assert!(error.to_string().contains("is not trusted"), "{error}");
        }
        assert_eq!(server.requests_in_all(), requests, "{case}");
    }
}
