//! From the faults of requests to the errors of the contract.

use replica_core::{Error, ErrorKind};

use crate::fault::{Fault, Reach, Refusal};

/// Where requests go, as far as an error tells.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The endpoint, without credentials.
    pub(crate) endpoint: String,
    pub(crate) bucket: String,
    pub(crate) region: String,
}

/// The error for `fault`, which came of trying to do `doing` (an infinitive with its object).
///
/// The fault is kept as the source: it says what the server said.
pub(crate) fn classify(fault: Fault, doing: &str, place: &Place) -> Error {
    let (kind, reason) = judge(&fault, place);
    Error::new(kind, format!("could not {doing}: {reason}")).with_source(fault)
}

/// What the caller should do about `fault`, and why.
fn judge(fault: &Fault, place: &Place) -> (ErrorKind, String) {
    let endpoint = &place.endpoint;
    match fault {
        Fault::Unreachable(Reach::Name, _) => (
            ErrorKind::Unavailable,
            format!(
                "the name of {endpoint} has no address: is it spelled right, and is the network up?"
            ),
        ),
        Fault::Unreachable(Reach::Refused, _) => (
            ErrorKind::Unavailable,
            format!(
                "nobody listens at {endpoint}: is it the right host and port, and is the server up?"
            ),
        ),
        Fault::Unreachable(Reach::TooLong, _) => (
            ErrorKind::Unavailable,
            format!(
                "{endpoint} did not take the connection in time: is it the right host, and does a firewall let us through?"
            ),
        ),
        Fault::Unreachable(Reach::NoTls, _) => (
            ErrorKind::Invalid,
            format!(
                "{endpoint} does not speak TLS: if it really is a server for plain HTTP, say http:// and allow it"
            ),
        ),
        Fault::Unreachable(Reach::Certificate, _) => (
            ErrorKind::Invalid,
            format!(
                "the certificate of {endpoint} is not trusted: is it the right host? an authority of your own has to be given"
            ),
        ),
        Fault::Unreachable(Reach::Handshake, _) => (
            ErrorKind::Invalid,
            format!(
                "{endpoint} breaks the TLS handshake off: is it the right host and port, and does it want a certificate of the client?"
            ),
        ),
        Fault::Unreachable(Reach::Other, _) => (
            ErrorKind::Unavailable,
            format!("no connection to {endpoint} could be made"),
        ),
        Fault::Silent(limit) => (
            ErrorKind::Unavailable,
            format!("{endpoint} was silent for {limit:?}"),
        ),
        Fault::Broken(_) => (
            ErrorKind::Unavailable,
            format!("the connection to {endpoint} broke"),
        ),
        Fault::Nonsense(_) => (
            ErrorKind::Other,
            format!(
                "{endpoint} does not answer as S3 does: is it the address of a store, and does something in between change answers?"
            ),
        ),
        Fault::Unsayable => (
            ErrorKind::Invalid,
            "its name has `.` or `..` between slashes, and no request can name it: delete it with a tool that sends names as they are"
                .to_owned(),
        ),
        Fault::Unsigned { had_some: true, .. } => (
            ErrorKind::Unavailable,
            "the source of the credentials gives no new ones at the moment".to_owned(),
        ),
        Fault::Unsigned {
            had_some: false, ..
        } => (
            ErrorKind::PermissionDenied,
            "there are no credentials: give a key, or a role to this machine".to_owned(),
        ),
        Fault::Refused(refusal) => judge_refusal(refusal, place),
    }
}

fn judge_refusal(refusal: &Refusal, place: &Place) -> (ErrorKind, String) {
    use ErrorKind::{Invalid, NotFound, Other, PermissionDenied, Unavailable};
    let Place {
        endpoint,
        bucket,
        region,
    } = place;
    let say = |kind, reason: &str| (kind, reason.to_owned());
    match refusal.code.as_str() {
        "NoSuchKey" | "NoSuchVersion" => say(NotFound, "there is no such file"),

        "NoSuchBucket" => (
            Invalid,
            format!("there is no bucket {bucket} at {endpoint}: make it, or correct its name"),
        ),
        "InvalidBucketName" => (
            Invalid,
            format!("{bucket} is no name for a bucket at {endpoint}"),
        ),
        "PermanentRedirect"
        | "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException" => (Invalid, wrong_region(refusal, region)),
        "RequestTimeTooSkewed" | "RequestExpired" => (Invalid, wrong_clock(refusal)),
        "InvalidObjectState" => say(
            Invalid,
            "it is in an archive, and has to be brought back from there first",
        ),
        "InvalidStorageClass" => say(Invalid, "the store does not have this storage class"),
        "KeyTooLongError" => say(Invalid, "the prefix is too long"),
        "EntityTooLarge" => say(
            Invalid,
            "it is too large for the store: make the parts smaller or larger",
        ),
        "EntityTooSmall" => say(Invalid, "its parts are too small for the store"),
        "NotImplemented" | "MethodNotAllowed" => say(Invalid, "the store has no such operation"),
        "PreconditionFailed" => say(Unavailable, "it was replaced meanwhile"),

        "AccessDenied" | "AllAccessDisabled" | "AccountProblem" | "UnauthorizedAccess"
        | "Forbidden" => say(
            PermissionDenied,
            "these credentials may not do that: see the permissions that a replica needs",
        ),
        "InvalidAccessKeyId" => (
            PermissionDenied,
            format!("{endpoint} does not know the access key"),
        ),
        "SignatureDoesNotMatch" => say(
            PermissionDenied,
            "the signature is wrong: is the secret key the one that belongs to the access key?",
        ),
        "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" => say(
            PermissionDenied,
            "the session token has expired: give a new one",
        ),
        "InvalidToken" => say(PermissionDenied, "the session token is wrong"),

        "SlowDown"
        | "TooManyRequests"
        | "Throttling"
        | "ThrottlingException"
        | "RequestLimitExceeded"
        | "BandwidthLimitExceeded" => say(Unavailable, "the store asks for fewer requests"),
        "RequestTimeout" | "RequestCanceled" | "ClientClosedRequest" => {
            say(Unavailable, "the store waited too long for the request")
        }
        _ if refusal.is_of_damage() => say(
            Unavailable,
            "it was changed or cut on its way to the store, which did not take it",
        ),
        "NoSuchUpload" => say(
            Unavailable,
            "the upload was aborted by someone else, or the store has lost it",
        ),
        "OperationAborted" | "ConditionalRequestConflict" | "TemporaryRedirect" => {
            say(Unavailable, "another change of it is under way")
        }

        "QuotaExceeded"
        | "XMinioStorageFull"
        | "InsufficientStorage"
        | "StorageFull"
        | "TooManyBuckets" => say(Other, "the store is full, or a quota of it is used up"),

        _ => judge_status(refusal, place),
    }
}

/// What to make of a refusal whose code is missing or says nothing in particular.
fn judge_status(refusal: &Refusal, place: &Place) -> (ErrorKind, String) {
    use ErrorKind::{Invalid, Other, PermissionDenied, Unavailable};
    let Place {
        endpoint,
        bucket,
        region,
    } = place;
    match refusal.status {
        301 | 302 | 308 => (Invalid, wrong_region(refusal, region)),
        307 => (Unavailable, format!("bucket {bucket} is being moved")),
        401 | 403 => (
            PermissionDenied,
            "these credentials may not do that: see the permissions that a replica needs"
                .to_owned(),
        ),
        404 => (
            Invalid,
            format!("{endpoint} knows nothing of bucket {bucket}: is it the address of a store?"),
        ),
        405 | 501 => (Invalid, "the store has no such operation".to_owned()),
        408 | 425 | 429 | 499 => (Unavailable, "the store asks to come back later".to_owned()),
        409 => (Unavailable, "another change of it is under way".to_owned()),
        412 => (Unavailable, "it was replaced meanwhile".to_owned()),
        413 => (
            Invalid,
            "it is too large for the store, or for something in front of it".to_owned(),
        ),
        507 => (Other, "the store is full".to_owned()),
        // S3 begins some answers before it knows how they end.
        200 | 500.. => (Unavailable, format!("{endpoint} is out of order")),
        status => {
            let code = if refusal.code.is_empty() {
                status.to_string()
            } else {
                refusal.code.clone()
            };
            (Invalid, format!("the store refused it ({code})"))
        }
    }
}

fn wrong_region(refusal: &Refusal, region: &str) -> String {
    match &refusal.region {
        Some(right) if right != region => {
            format!("the bucket is in region {right}, and not in {region}: configure that one")
        }
        _ => format!("the bucket is not in region {region}, or elsewhere than at this endpoint"),
    }
}

fn wrong_clock(refusal: &Refusal) -> String {
    let unknown = || "another time".to_owned();
    let ours = refusal.request_time.clone().unwrap_or_else(unknown);
    let theirs = refusal.server_time.clone().unwrap_or_else(unknown);
    format!(
        "the clocks differ too much: this machine's says {ours}, the store's {theirs}; set the wrong one right"
    )
}
