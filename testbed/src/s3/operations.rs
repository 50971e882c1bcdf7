//! What the server answers to each operation.

use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use md5::{Digest, Md5};
use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result, StdError, s3_error};

use super::content::{Assembly, Content};
use super::store::{Bucket, Part as StoredPart, Store, StoredObject, etag};

/// The keys of a `DeleteObjects`, at most.
const DELETE_MAX: usize = 1000;
/// The parts of an upload, at most.
const PARTS_MAX: i32 = 10_000;

/// `If-Match` and `If-None-Match`.
type Conditions = (Option<ETagCondition>, Option<ETagCondition>);

pub(super) struct Operations(pub(super) Arc<Store>);

#[async_trait::async_trait]
impl S3 for Operations {
    async fn create_bucket(
        &self,
        request: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        self.0.count("CreateBucket");
        if !self.0.create_bucket(&request.input.bucket) {
            return Err(s3_error!(BucketAlreadyOwnedByYou));
        }
        Ok(S3Response::new(CreateBucketOutput::default()))
    }

    async fn head_bucket(
        &self,
        request: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        self.0.count("HeadBucket");
        self.read(&request.input.bucket, |_| ())?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        self.0.count("GetObject");
        let input = request.input;
        let conditions = (input.if_match, input.if_none_match);
        let object = self.object(&input.bucket, &input.key, conditions)?;

        let size = object.size();
        let whole = 0..size;
        let (range, content_range) = match input.range {
            None => (whole, None),
            Some(range) => {
                let range = range.check(size).map_err(|_| s3_error!(InvalidRange))?;
                let shown = format!("bytes {}-{}/{size}", range.start, range.end - 1);
                (range, Some(shown))
            }
        };
        let length = range.end - range.start;
        let chunks = object.content.chunks(range).map(Ok::<_, std::io::Error>);
        Ok(S3Response::new(GetObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            body: Some(StreamingBlob::wrap(stream::iter(chunks))),
            content_length: Some(length as i64),
            content_range,
            e_tag: Some(ETag::Strong(object.etag)),
            last_modified: Some(object.modified.into()),
            metadata: Some(object.metadata),
            ..Default::default()
        }))
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        self.0.count("HeadObject");
        let input = request.input;
        let conditions = (input.if_match, input.if_none_match);
        let object = self.object(&input.bucket, &input.key, conditions)?;
        Ok(S3Response::new(HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some(object.size() as i64),
            e_tag: Some(ETag::Strong(object.etag)),
            last_modified: Some(object.modified.into()),
            metadata: Some(object.metadata),
            ..Default::default()
        }))
    }

    async fn put_object(
        &self,
        request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        self.0.count("PutObject");
        let input = request.input;
        self.read(&input.bucket, |_| ())?;
        let content = receive(input.body, input.content_length, input.content_md5).await?;

        let mut object = StoredObject::of(content);
        object.metadata = input.metadata.unwrap_or_default();
        let etag = object.etag.clone();
        let conditions = (input.if_match, input.if_none_match);
        self.put(&input.bucket, input.key, conditions, |_| Ok(object))?;
        Ok(S3Response::new(PutObjectOutput {
            e_tag: Some(ETag::Strong(etag)),
            ..Default::default()
        }))
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.0.count("DeleteObject");
        let input = request.input;
        self.write(&input.bucket, |bucket| bucket.objects.remove(&input.key))?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        self.0.count("DeleteObjects");
        let has_checksum = request
            .headers
            .keys()
            .any(|name| name == "content-md5" || name.as_str().starts_with("x-amz-checksum-"));
        if !has_checksum {
            return Err(s3_error!(InvalidRequest, "a checksum is missing"));
        }
        let input = request.input;
        if input.delete.objects.is_empty() || input.delete.objects.len() > DELETE_MAX {
            return Err(s3_error!(MalformedXML));
        }
        let keys: Vec<_> = input.delete.objects.into_iter().map(|it| it.key).collect();
        self.write(&input.bucket, |bucket| {
            for key in &keys {
                bucket.objects.remove(key);
            }
        })?;
        let deleted = keys.into_iter().map(|key| DeletedObject {
            key: Some(key),
            ..Default::default()
        });
        let quiet = input.delete.quiet.unwrap_or(false);
        Ok(S3Response::new(DeleteObjectsOutput {
            deleted: (!quiet).then(|| deleted.collect()),
            ..Default::default()
        }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        self.0.count("ListObjectsV2");
        let input = request.input;
        let max = self.page(input.max_keys);
        let prefix = input.prefix.clone().unwrap_or_default();
        let delimiter = input.delimiter.clone().filter(|it| !it.is_empty());
        let last = match &input.continuation_token {
            Some(token) => Last::from_token(token).ok_or_else(|| s3_error!(InvalidArgument))?,
            None => Last::Key(input.start_after.clone().unwrap_or_default()),
        };
        let page = self.read(&input.bucket, |bucket| {
            Page::of(bucket, &prefix, delimiter.as_deref(), last, max)
        })?;

        let encoding = input.encoding_type.as_ref();
        let by_url = encoding.is_some_and(|it| it.as_str() == EncodingType::URL);
        let encode = |text: String| match by_url {
            true => percent_encode(&text),
            false => text,
        };
        let contents = page.objects.into_iter().map(|(key, object)| Object {
            e_tag: Some(ETag::Strong(object.etag)),
            key: Some(encode(key)),
            last_modified: Some(object.modified.into()),
            size: Some(object.content.len() as i64),
            storage_class: Some(ObjectStorageClass::from_static(
                ObjectStorageClass::STANDARD,
            )),
            ..Default::default()
        });
        let contents: Vec<_> = contents.collect();
        let prefixes = page.prefixes.into_iter().map(|prefix| CommonPrefix {
            prefix: Some(encode(prefix)),
        });
        let prefixes: Vec<_> = prefixes.collect();
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            key_count: Some((contents.len() + prefixes.len()) as i32),
            is_truncated: Some(page.next.is_some()),
            next_continuation_token: page.next.map(|last| last.into_token()),
            contents: Some(contents),
            common_prefixes: Some(prefixes),
            continuation_token: input.continuation_token,
            delimiter: input.delimiter.map(encode),
            encoding_type: input.encoding_type,
            max_keys: Some(max as i32),
            prefix: input.prefix.map(encode),
            start_after: input.start_after.map(encode),
            ..Default::default()
        }))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        self.0.count("CreateMultipartUpload");
        let input = request.input;
        let metadata = input.metadata.unwrap_or_default();
        let id = self.write(&input.bucket, |bucket| {
            bucket.begin_upload(&input.key, metadata, SystemTime::now())
        })?;
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            ..Default::default()
        }))
    }

    async fn upload_part(
        &self,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        self.0.count("UploadPart");
        let input = request.input;
        if !(1..=PARTS_MAX).contains(&input.part_number) {
            return Err(s3_error!(InvalidArgument, "part numbers are 1 to 10000"));
        }
        let upload = (input.key, input.upload_id);
        self.upload(&input.bucket, &upload, |_| ())?;
        let content = receive(input.body, input.content_length, input.content_md5).await?;

        let etag = etag(&content);
        let part = StoredPart {
            content,
            modified: SystemTime::now(),
        };
        self.upload(&input.bucket, &upload, |upload| {
            upload.parts.insert(input.part_number, part);
        })?;
        Ok(S3Response::new(UploadPartOutput {
            e_tag: Some(ETag::Strong(etag)),
            ..Default::default()
        }))
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        self.0.count("CompleteMultipartUpload");
        let input = request.input;
        let part_min = self.0.part_min();
        let upload = (input.key.clone(), input.upload_id);
        let chosen = input
            .multipart_upload
            .and_then(|it| it.parts)
            .unwrap_or_default();
        let there = self.upload(&input.bucket, &upload, |upload| upload.parts.clone())?;
        let mut parts: Vec<StoredPart> = Vec::new();
        let mut last_number = 0;
        for part in chosen {
            let number = part.part_number.unwrap_or(0);
            if number <= last_number {
                return Err(s3_error!(InvalidPartOrder));
            }
            last_number = number;
            let found = there.get(&number).filter(|found| {
                part.e_tag
                    .is_some_and(|tag| tag.value() == etag(&found.content))
            });
            parts.push(found.ok_or_else(|| s3_error!(InvalidPart))?.clone());
        }
        let Some((_, all_but_last)) = parts.split_last() else {
            return Err(s3_error!(MalformedXML));
        };
        if all_but_last
            .iter()
            .any(|part| part.content.len() < part_min)
        {
            return Err(s3_error!(EntityTooSmall));
        }

        let content = Content::concat(parts.iter().map(|part| part.content.clone()));
        let mut object = StoredObject::of(content);
        object.etag = format!("{}-{}", object.etag, parts.len());
        let etag = object.etag.clone();
        let conditions = (input.if_match, input.if_none_match);
        self.put(&input.bucket, input.key.clone(), conditions, |bucket| {
            // Of two that complete it together, one comes first.
            let begun = bucket.uploads.remove(&upload);
            object.metadata = begun.ok_or_else(|| s3_error!(NoSuchUpload))?.metadata;
            Ok(object)
        })?;
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(ETag::Strong(etag)),
            ..Default::default()
        }))
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.0.count("AbortMultipartUpload");
        let input = request.input;
        let upload = (input.key, input.upload_id);
        self.write(&input.bucket, |bucket| bucket.uploads.remove(&upload))?
            .ok_or_else(|| s3_error!(NoSuchUpload))?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }

    async fn list_multipart_uploads(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        self.0.count("ListMultipartUploads");
        let input = request.input;
        if input.delimiter.is_some() {
            return Err(s3_error!(NotImplemented, "uploads by delimiter"));
        }
        let max = self.page(input.max_uploads);
        let prefix = input.prefix.clone().unwrap_or_default();
        let after_key = input.key_marker.clone().unwrap_or_default();
        // Without an id, all uploads of the marker's key are over.
        let after_id = input.upload_id_marker.clone();
        let is_over = |key: &str, id: &str| match &after_id {
            Some(after_id) => (key, id) <= (&*after_key, &**after_id),
            None => key <= &*after_key,
        };
        let mut uploads = self.read(&input.bucket, |bucket| {
            let mut uploads = bucket.open_uploads();
            uploads.retain(|it| it.key.starts_with(&prefix) && !is_over(&it.key, &it.id));
            uploads
        })?;
        let truncated = uploads.len() > max;
        uploads.truncate(max);
        let next = uploads.last().filter(|_| truncated).cloned();
        let uploads = uploads.into_iter().map(|upload| MultipartUpload {
            initiated: Some(upload.begun.into()),
            key: Some(upload.key),
            upload_id: Some(upload.id),
            ..Default::default()
        });
        Ok(S3Response::new(ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            is_truncated: Some(truncated),
            key_marker: input.key_marker,
            max_uploads: Some(max as i32),
            next_key_marker: next.clone().map(|upload| upload.key),
            next_upload_id_marker: next.map(|upload| upload.id),
            prefix: input.prefix,
            upload_id_marker: input.upload_id_marker,
            uploads: Some(uploads.collect()),
            ..Default::default()
        }))
    }

    async fn list_parts(
        &self,
        request: S3Request<ListPartsInput>,
    ) -> S3Result<S3Response<ListPartsOutput>> {
        self.0.count("ListParts");
        let input = request.input;
        let max = self.page(input.max_parts);
        let after = input.part_number_marker.unwrap_or(0);
        let upload = (input.key, input.upload_id);
        let mut parts: Vec<_> = self.upload(&input.bucket, &upload, |upload| {
            let parts = upload.parts.iter();
            let later = parts.filter(|(number, _)| **number > after);
            later
                .map(|(number, part)| (*number, part.clone()))
                .collect()
        })?;
        let truncated = parts.len() > max;
        parts.truncate(max);
        let next = parts
            .last()
            .filter(|_| truncated)
            .map(|(number, _)| *number);
        let parts = parts.into_iter().map(|(number, part)| Part {
            e_tag: Some(ETag::Strong(etag(&part.content))),
            last_modified: Some(part.modified.into()),
            part_number: Some(number),
            size: Some(part.content.len() as i64),
            ..Default::default()
        });
        let (key, id) = upload;
        Ok(S3Response::new(ListPartsOutput {
            bucket: Some(input.bucket),
            is_truncated: Some(truncated),
            key: Some(key),
            max_parts: Some(max as i32),
            next_part_number_marker: next,
            part_number_marker: input.part_number_marker,
            parts: Some(parts.collect()),
            upload_id: Some(id),
            ..Default::default()
        }))
    }
}

impl Operations {
    fn read<T>(&self, bucket: &str, read: impl FnOnce(&Bucket) -> T) -> S3Result<T> {
        let found = self.0.read(bucket, read);
        found.ok_or_else(|| s3_error!(NoSuchBucket))
    }

    fn write<T>(&self, bucket: &str, write: impl FnOnce(&mut Bucket) -> T) -> S3Result<T> {
        let found = self.0.write(bucket, write);
        found.ok_or_else(|| s3_error!(NoSuchBucket))
    }

    /// The object at `key`, if it is as asked.
    fn object(&self, bucket: &str, key: &str, conditions: Conditions) -> S3Result<StoredObject> {
        let object = self.read(bucket, |bucket| bucket.objects.get(key).cloned())?;
        let object = object.ok_or_else(|| s3_error!(NoSuchKey))?;
        let (matches, none_match) = conditions;
        if matches.is_some_and(|condition| !fits(&condition, &object)) {
            return Err(s3_error!(PreconditionFailed));
        }
        if none_match.is_some_and(|condition| fits(&condition, &object)) {
            return Err(s3_error!(NotModified));
        }
        Ok(object)
    }

    /// Puts what `make` gives at `key`, if what is there is as asked.
    fn put(
        &self,
        bucket: &str,
        key: String,
        conditions: Conditions,
        make: impl FnOnce(&mut Bucket) -> S3Result<StoredObject>,
    ) -> S3Result<()> {
        self.write(bucket, |bucket| {
            let there = bucket.objects.get(&key);
            let (matches, none_match) = conditions;
            if let Some(condition) = matches {
                let object = there.ok_or_else(|| s3_error!(NoSuchKey))?;
                if !fits(&condition, object) {
                    return Err(s3_error!(PreconditionFailed));
                }
            }
            if let Some((condition, object)) = none_match.zip(there)
                && fits(&condition, object)
            {
                return Err(s3_error!(PreconditionFailed));
            }
            let object = make(bucket)?;
            bucket.objects.insert(key, object);
            Ok(())
        })?
    }

    fn upload<T>(
        &self,
        bucket: &str,
        upload: &(String, String),
        act: impl FnOnce(&mut super::store::Upload) -> T,
    ) -> S3Result<T> {
        self.write(bucket, |bucket| bucket.uploads.get_mut(upload).map(act))?
            .ok_or_else(|| s3_error!(NoSuchUpload))
    }

    /// How many entries a page has.
    fn page(&self, asked: Option<i32>) -> usize {
        let asked = asked.and_then(|max| usize::try_from(max).ok());
        asked.unwrap_or(usize::MAX).min(self.0.page_max())
    }
}

/// One page of a listing.
#[derive(Default)]
struct Page {
    objects: Vec<(String, StoredObject)>,
    prefixes: Vec<String>,
    /// The last entry, where others follow.
    next: Option<Last>,
}

/// The entry after which a page begins.
#[derive(Clone)]
enum Last {
    Key(String),
    /// A common prefix: all keys that begin so are behind.
    Prefix(String),
}

impl Page {
    fn of(
        bucket: &Bucket,
        prefix: &str,
        delimiter: Option<&str>,
        mut last: Last,
        max: usize,
    ) -> Self {
        let mut page = Self::default();
        let mut entries = 0;
        for (key, object) in bucket.objects.range(prefix.to_owned()..) {
            let Some(rest) = key.strip_prefix(prefix) else {
                break;
            };
            if last.covers(key) {
                continue;
            }
            if entries == max {
                page.next = (max > 0).then_some(last);
                break;
            }
            entries += 1;
            let cut = delimiter.and_then(|delimiter| Some((rest.find(delimiter)?, delimiter)));
            last = match cut {
                Some((place, delimiter)) => {
                    let common = key[..prefix.len() + place + delimiter.len()].to_owned();
                    page.prefixes.push(common.clone());
                    Last::Prefix(common)
                }
                None => {
                    page.objects.push((key.clone(), object.clone()));
                    Last::Key(key.clone())
                }
            };
        }
        page
    }
}

impl Last {
    fn covers(&self, key: &str) -> bool {
        match self {
            Self::Key(last) => key <= &**last,
            Self::Prefix(last) => key <= &**last || key.starts_with(last),
        }
    }

    /// Tokens mean nothing to clients.
    fn into_token(self) -> String {
        BASE64_STANDARD.encode(match self {
            Self::Key(key) => format!("k{key}"),
            Self::Prefix(prefix) => format!("p{prefix}"),
        })
    }

    fn from_token(token: &str) -> Option<Self> {
        let text = String::from_utf8(BASE64_STANDARD.decode(token).ok()?).ok()?;
        if let Some(key) = text.strip_prefix('k') {
            return Some(Self::Key(key.to_owned()));
        }
        text.strip_prefix('p').map(|it| Self::Prefix(it.to_owned()))
    }
}

/// Receives a body and checks it against what was declared.
async fn receive(
    body: Option<StreamingBlob>,
    length: Option<i64>,
    md5: Option<String>,
) -> S3Result<Content> {
    let mut body = match body {
        Some(body) => body.boxed(),
        None => stream::empty::<Result<Bytes, StdError>>().boxed(),
    };
    let mut hash = md5.is_some().then(Md5::new);
    let mut assembly = Assembly::default();
    while let Some(bytes) = body.try_next().await.map_err(broken)? {
        if let Some(hash) = &mut hash {
            hash.update(&bytes);
        }
        assembly.push(&bytes);
    }
    if length.is_some_and(|length| length != assembly.len() as i64) {
        return Err(s3_error!(IncompleteBody));
    }
    let hash = hash.map(|hash| BASE64_STANDARD.encode(hash.finalize()));
    if hash != md5 {
        return Err(s3_error!(BadDigest));
    }
    Ok(assembly.finish())
}

/// An error of a body keeps its code, where it has one: a wrong signature, say.
fn broken(error: StdError) -> s3s::S3Error {
    match error.downcast::<s3s::S3Error>() {
        Ok(error) => *error,
        Err(error) => s3s::S3Error::with_source(s3s::S3ErrorCode::IncompleteBody, error),
    }
}

fn fits(condition: &ETagCondition, object: &StoredObject) -> bool {
    match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(tag) => tag.value() == object.etag,
    }
}

/// Encodes a key as `encoding-type=url` asks for.
fn percent_encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.*/".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
