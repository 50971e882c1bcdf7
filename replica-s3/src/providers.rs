//! What the stores that speak S3's protocol need, and where they differ: data, not code.

use std::num::NonZeroUsize;

/// A store that speaks S3's protocol, with what a client must know about it.
///
/// [`Provider::of_host`] picks one by the endpoint; [`S3Config::provider`](crate::S3Config)
/// overrides it, with one of [`PROVIDERS`] or one of your own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Provider {
    /// What it is called.
    pub name: &'static str,
    /// The ends of the host names of its endpoints. None for software that runs anywhere.
    pub hosts: &'static [&'static str],
    /// The region that requests are signed for where the configuration names none.
    pub region: Region,
    /// Where the bucket's name goes in a request's address.
    pub addressing: Addressing,
    /// How many parts an upload may have.
    pub parts_max: u32,
    /// How many parts of an upload the store takes at the same time.
    pub parts_in_flight_max: NonZeroUsize,
    /// A header that each request must carry for the store to be consistent (K18).
    pub header: Option<(&'static str, &'static str)>,
    /// The checksum that an upload carries beside its signature.
    pub checksum: Checksum,
    /// Among which open uploads those of a replica are looked for.
    pub open_uploads: OpenUploads,
}

/// Among which open uploads those of a replica are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenUploads {
    /// Those that the store lists by the replica's prefix.
    OfPrefix,
    /// Those of the whole bucket, as there are stores that list by a prefix none, or those to one
    /// key alone.
    OfBucket,
}

/// The checksum that an upload carries beside its signature.
///
/// A bucket with Object Lock and a default retention refuses uploads without one, on AWS and
/// wherever else that is kept to. Not every store that speaks the protocol knows one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// None: the signature has one of its own.
    None,
    /// SHA-256 (`x-amz-checksum-sha256`), which is the one of the signature.
    Sha256,
}

/// How the region to sign for follows from a provider's endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Region {
    /// It is always this one.
    Fixed(&'static str),
    /// It is this label of the host name, counted from 0.
    Label(usize),
    /// It is behind the `s3` of the host name, as AWS writes those of S3: `s3.eu-west-1`,
    /// `s3.dualstack.eu-west-1`, `s3-fips.eu-west-1`, `vpce-1a2b.s3.eu-west-1.vpce`. Without one
    /// it is `us-east-1`, and another name below `amazonaws.com` is none of S3.
    Aws,
}

/// Where the bucket's name goes in a request's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressing {
    /// `https://endpoint/bucket/key`
    Path,
    /// `https://bucket.endpoint/key`
    VirtualHost,
}

/// What any software that speaks the protocol can do: addressed by path, in `us-east-1`, with the
/// limits of S3 itself. For an endpoint that is none of [`PROVIDERS`], as that of software that
/// runs anywhere, such as MinIO or Garage: no host name tells which it is. One that wants another
/// region has to be [configured](crate::S3Config).
pub const GENERIC: Provider = Provider {
    name: "an S3-compatible store",
    hosts: &[],
    region: Region::Fixed("us-east-1"),
    addressing: Addressing::Path,
    parts_max: 10_000,
    parts_in_flight_max: NonZeroUsize::MAX,
    header: None,
    checksum: Checksum::None,
    open_uploads: OpenUploads::OfBucket,
};

const TWO: NonZeroUsize = NonZeroUsize::new(2).expect("two is not zero");

/// Every request is signed with the checksum of its body, in one piece and without a trailer
/// (no `aws-chunked`), which all of these take and several demand
/// (github.com/benbjohnson/litestream/pull/899), and which AWS checks the body against.
pub const PROVIDERS: &[Provider] = &[
    // docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html: 10,000 parts of 5 MiB to 5 GiB.
    // docs.aws.amazon.com/AmazonS3/latest/userguide/VirtualHosting.html: buckets by host name.
    Provider {
        name: "AWS",
        hosts: &[".amazonaws.com", ".amazonaws.com.cn"],
        region: Region::Aws,
        addressing: Addressing::VirtualHost,
        // docs.aws.amazon.com/AmazonS3/latest/userguide/object-lock-managing.html: uploads to a
        // bucket with a default retention need Content-MD5 or such a checksum.
        checksum: Checksum::Sha256,
        // docs.aws.amazon.com/AmazonS3/latest/API/API_ListMultipartUploads.html: by any prefix.
        open_uploads: OpenUploads::OfPrefix,
        ..GENERIC
    },
    // github.com/minio/minio/blob/master/docs/minio-limits.md: 10,000 parts.
    // github.com/minio/minio/blob/master/cmd/erasure-server-pool.go: open uploads are listed for
    // the whole name of an object, or for the bucket, where they are those that the asked server
    // has in memory: begun there, and since it was started.
    // Host names of buckets work only where MINIO_DOMAIN is set.
    Provider {
        name: "MinIO",
        ..GENERIC
    },
    // developers.cloudflare.com/r2/platform/limits and /r2/objects/upload-objects: 10,000 parts,
    // all of one size but the last. developers.cloudflare.com/r2/api/s3/api: region "auto".
    // litestream.io/guides/s3-compatible: two parts at the same time, as more are put off.
    Provider {
        name: "Cloudflare R2",
        hosts: &[".r2.cloudflarestorage.com"],
        region: Region::Fixed("auto"),
        parts_in_flight_max: TWO,
        ..GENERIC
    },
    // backblaze.com/apidocs/introduction-to-the-s3-compatible-api: s3.<region>.backblazeb2.com,
    // both styles; github.com/benbjohnson/litestream/pull/899: by path.
    Provider {
        name: "Backblaze B2",
        hosts: &[".backblazeb2.com"],
        region: Region::Label(1),
        ..GENERIC
    },
    // tigrisdata.com/docs/objects/consistency: reads are consistent in every region with this
    // header. tigrisdata.com/docs/concepts/regions: t3.storage.dev, region "auto"; before that,
    // fly.storage.tigris.dev.
    Provider {
        name: "Tigris",
        hosts: &[
            ".t3.storage.dev",
            ".tigris.dev",
            ".tigrisfiles.io",
            ".storageapi.dev",
        ],
        region: Region::Fixed("auto"),
        addressing: Addressing::VirtualHost,
        header: Some(("x-tigris-consistent", "true")),
        ..GENERIC
    },
    // docs.digitalocean.com/products/spaces/reference/aws-sdks: <region>.digitaloceanspaces.com,
    // where "us-east-1" is what requests are signed for.
    Provider {
        name: "DigitalOcean Spaces",
        hosts: &[".digitaloceanspaces.com"],
        addressing: Addressing::VirtualHost,
        ..GENERIC
    },
    // docs.wasabi.com, "service URLs for Wasabi's storage regions": s3.<region>.wasabisys.com.
    Provider {
        name: "Wasabi",
        hosts: &[".wasabisys.com"],
        region: Region::Label(1),
        ..GENERIC
    },
    // scaleway.com/en/docs/object-storage/api-cli/multipart-uploads: 1,000 parts;
    // s3.<region>.scw.cloud.
    Provider {
        name: "Scaleway",
        hosts: &[".scw.cloud"],
        region: Region::Label(1),
        addressing: Addressing::VirtualHost,
        parts_max: 1_000,
        ..GENERIC
    },
    // docs.hetzner.com/storage/object-storage/overview: <location>.your-objectstorage.com, Ceph.
    Provider {
        name: "Hetzner",
        hosts: &[".your-objectstorage.com"],
        region: Region::Label(0),
        addressing: Addressing::VirtualHost,
        ..GENERIC
    },
    // supabase.com/docs/guides/storage/s3/authentication: <project>.storage.supabase.co or
    // <project>.supabase.co, each with /storage/v1/s3 behind it, by path. The region is the
    // project's, and has to be given.
    Provider {
        name: "Supabase",
        hosts: &[".supabase.co"],
        ..GENERIC
    },
    // docs.filebase.com/api-documentation/s3-compatible-api: s3.filebase.com, "us-east-1";
    // github.com/benbjohnson/litestream/pull/899: by path.
    Provider {
        name: "Filebase",
        hosts: &["s3.filebase.com"],
        ..GENERIC
    },
    // cloud.google.com/storage/docs/interoperability: region "auto".
    // docs.cloud.google.com/storage/docs/xml-api/post-bucket: 1,000 objects in one deletion.
    Provider {
        name: "Google Cloud Storage",
        hosts: &["storage.googleapis.com"],
        region: Region::Fixed("auto"),
        ..GENERIC
    },
    // docs.ceph.com/en/latest/radosgw/config-ref: rgw_multipart_part_upload_limit is 10,000;
    // host names of buckets work only where rgw_dns_name is set.
    Provider {
        name: "Ceph",
        ..GENERIC
    },
    // garagehq.deuxfleurs.fr/documentation/reference-manual/configuration: s3_region is whatever
    // is configured, mostly "garage"; host names of buckets work only where root_domain is set.
    Provider {
        name: "Garage",
        region: Region::Fixed("garage"),
        ..GENERIC
    },
    // github.com/seaweedfs/seaweedfs/wiki/Amazon-S3-API: by path, any region.
    Provider {
        name: "SeaweedFS",
        ..GENERIC
    },
];

impl Provider {
    /// The provider whose endpoints are on `host`, or [`GENERIC`].
    pub fn of_host(host: &str) -> Provider {
        let host = host.to_ascii_lowercase();
        let is_its = |provider: &&Provider| {
            let mut ends = provider.hosts.iter();
            let is_below =
                ends.any(|end| host.ends_with(end) || *host == *end.trim_start_matches('.'));
            is_below && (provider.region != Region::Aws || of_s3(&host).is_some())
        };
        PROVIDERS.iter().find(is_its).copied().unwrap_or(GENERIC)
    }

    /// The provider called `name`, in any case, and with hyphens in place of spaces or not:
    /// `Cloudflare R2` and `cloudflare-r2` are the same.
    pub fn named(name: &str) -> Option<Provider> {
        let name = name.replace('-', " ");
        let is_it = |provider: &&Provider| provider.name.eq_ignore_ascii_case(&name);
        PROVIDERS.iter().find(is_it).copied()
    }

    /// The region to sign for at `host`.
    pub(crate) fn region_at(&self, host: &str) -> String {
        let named = match self.region {
            Region::Fixed(region) => Some(region),
            Region::Label(index) => host
                .split('.')
                .nth(index)
                .filter(|label| !label.is_empty() && host.split('.').count() > index + 2),
            Region::Aws => of_s3(host).flatten(),
        };
        named.unwrap_or("us-east-1").to_owned()
    }

    /// Whether `host` is one of AWS's for S3 that names no region, so that the region has to come
    /// from elsewhere.
    pub fn is_aws_without_region(host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        Provider::of_host(&host).region == Region::Aws && of_s3(&host) == Some(None)
    }
}

/// The region in a host name of AWS's, if that is one of S3 and has one.
fn of_s3(host: &str) -> Option<Option<&str>> {
    let name = host.strip_suffix(".cn").unwrap_or(host);
    let name = name.strip_suffix(".amazonaws.com")?;
    let name = name.strip_suffix(".vpce").unwrap_or(name);
    let mut labels = name
        .split('.')
        .skip_while(|label| *label != "s3" && !label.starts_with("s3-"));
    let service = labels.next()?;
    let mut labels = labels.filter(|label| *label != "dualstack");
    let region = match service {
        "s3" | "s3-fips" | "s3-accelerate" => labels.next(),
        // As regions were named first: s3-us-west-2.
        old => old.strip_prefix("s3-").filter(|name| *name != "external-1"),
    };
    match labels.next() {
        None => Some(region),
        // As in s3-something.eu-west-1.elb.
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_is_known_by_its_endpoint() {
        for (host, name, region) in [
            ("s3.eu-west-1.amazonaws.com", "AWS", "eu-west-1"),
            ("s3.amazonaws.com", "AWS", "us-east-1"),
            ("s3.cn-north-1.amazonaws.com.cn", "AWS", "cn-north-1"),
            ("s3.dualstack.eu-west-1.amazonaws.com", "AWS", "eu-west-1"),
            (
                "s3-fips.us-gov-west-1.amazonaws.com",
                "AWS",
                "us-gov-west-1",
            ),
            (
                "s3-fips.dualstack.us-east-2.amazonaws.com",
                "AWS",
                "us-east-2",
            ),
            ("s3-us-west-2.amazonaws.com", "AWS", "us-west-2"),
            ("s3-accelerate.amazonaws.com", "AWS", "us-east-1"),
            (
                "bucket.vpce-1a2b-3c4d.s3.eu-west-1.vpce.amazonaws.com",
                "AWS",
                "eu-west-1",
            ),
            ("0ab1.r2.cloudflarestorage.com", "Cloudflare R2", "auto"),
            ("0ab1.eu.r2.cloudflarestorage.com", "Cloudflare R2", "auto"),
            (
                "s3.us-west-004.backblazeb2.com",
                "Backblaze B2",
                "us-west-004",
            ),
            ("t3.storage.dev", "Tigris", "auto"),
            ("fly.storage.tigris.dev", "Tigris", "auto"),
            (
                "fra1.digitaloceanspaces.com",
                "DigitalOcean Spaces",
                "us-east-1",
            ),
            ("s3.eu-central-1.wasabisys.com", "Wasabi", "eu-central-1"),
            ("S3.fr-par.SCW.cloud", "Scaleway", "fr-par"),
            ("fsn1.your-objectstorage.com", "Hetzner", "fsn1"),
            ("abc.storage.supabase.co", "Supabase", "us-east-1"),
            ("s3.filebase.com", "Filebase", "us-east-1"),
            ("storage.googleapis.com", "Google Cloud Storage", "auto"),
            ("minio.example.com", GENERIC.name, "us-east-1"),
            ("127.0.0.1", GENERIC.name, "us-east-1"),
        ] {
            let provider = Provider::of_host(host);

            assert_eq!(provider.name, name, "{host}");
            assert_eq!(
                provider.region_at(&host.to_ascii_lowercase()),
                region,
                "{host}"
            );
        }
    }

    #[test]
    fn a_host_that_only_looks_like_a_providers_is_not_its() {
        for host in [
            "evilamazonaws.com",
            "amazonaws.com",
            "ec2-1-2-3-4.eu-west-1.compute.amazonaws.com",
            "minio-1234.eu-west-1.elb.amazonaws.com",
            "s3-proxy-1234.eu-west-1.elb.amazonaws.com",
            "amazonaws.com.example.org",
            "xs3.filebase.com.evil",
        ] {
            assert_eq!(Provider::of_host(host), GENERIC, "{host}");
        }
    }

    #[test]
    fn the_names_of_aws_without_a_region_are_known() {
        for (host, is_without) in [
            ("s3.amazonaws.com", true),
            ("S3-accelerate.amazonaws.com", true),
            ("s3.dualstack.eu-west-1.amazonaws.com", false),
            ("ec2-1-2-3-4.compute-1.amazonaws.com", false),
            ("minio.example.com", false),
        ] {
            assert_eq!(Provider::is_aws_without_region(host), is_without, "{host}");
        }
    }

    #[test]
    fn each_provider_has_a_name_of_its_own() {
        for provider in PROVIDERS {
            let in_a_url = provider.name.to_lowercase().replace(' ', "-");
            for name in [provider.name, &in_a_url] {
                assert_eq!(Provider::named(name), Some(*provider), "{name}");
            }
        }
        assert_eq!(Provider::named("minio2"), None);
    }
}
