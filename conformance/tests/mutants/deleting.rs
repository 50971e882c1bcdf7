//! Mutants that delete wrongly.

use std::sync::Mutex;
use std::time::Duration;

use futures::TryStreamExt;
use replica_core::{
    Error, ErrorKind, FileId, Level, ReplicaClient, Result, Timestamps, Txid, async_trait,
};
use replica_mock::{MockClient, MockStore};

use crate::{Bug, lock, mutants};

/// Deletes other files than it is told to: what it gives, of all that are there and those named.
struct Deletes(fn(Vec<FileId>, &[FileId]) -> Vec<FileId>);

#[async_trait]
impl Bug for Deletes {
    async fn delete(&self, mock: &MockClient, files: &[FileId]) -> Result<()> {
        mock.delete(&(self.0)(mock.files(), files)).await
    }
}

/// Refuses some deletes.
struct Refuses(fn(&[FileId], &[FileId]) -> bool);

#[async_trait]
impl Bug for Refuses {
    async fn delete(&self, mock: &MockClient, files: &[FileId]) -> Result<()> {
        if (self.0)(&mock.files(), files) {
            return Err(Error::new(ErrorKind::Other, "it can't be deleted"));
        }
        mock.delete(files).await
    }
}

/// Deletes other files than all: those that it gives, of all that are there.
struct DeletesAll(fn(Vec<FileId>) -> Vec<FileId>);

#[async_trait]
impl Bug for DeletesAll {
    async fn delete_all(&self, mock: &MockClient) -> Result<()> {
        mock.delete(&(self.0)(mock.files())).await
    }
}

mutants! {
    nothing_to_delete_means_everything: Deletes(|all, named| match named {
        [] => all,
        _ => named.to_vec(),
    }) => ["delete::nothing_to_delete_is_fine", "model::any_calls_do_what_the_model_does"];
    nothing_to_delete_is_refused: Refuses(|_, named| named.is_empty()) => [
        "delete::nothing_to_delete_is_fine",
    ];
    a_missing_file_is_refused: Refuses(|all, named| named.iter().any(|file| !all.contains(file))) => [
        "delete::missing_files_are_fine",
    ];
    a_file_named_twice_is_refused: Refuses(|_, named| {
        (1..named.len()).any(|place| named[..place].contains(&named[place]))
    }) => ["delete::the_same_file_twice_is_fine"];
    only_the_first_thousand_go: Deletes(|_, named| named.iter().take(1000).copied().collect()) => [
        "delete::any_number_of_files",
        "cancel::a_dropped_delete_leaves_files_or_not",
    ];
    more_than_a_thousand_are_refused: Refuses(|_, named| named.len() > 1000) => [
        "delete::any_number_of_files",
    ];
    files_of_the_same_min_go_too: Deletes(|all, named| {
        let goes = |file: &FileId| {
            let same = |named: &FileId| {
                (named.level, named.txids.min()) == (file.level, file.txids.min())
            };
            named.iter().any(same)
        };
        all.into_iter().filter(goes).collect()
    }) => ["delete::only_the_files_named", "model::any_calls_do_what_the_model_does"];
    names_go_at_every_level: Deletes(|all, named| {
        let goes = |file: &FileId| named.iter().any(|named| named.txids == file.txids);
        all.into_iter().filter(goes).collect()
    }) => ["delete::only_the_files_named", "contract::levels_are_independent"];
    only_the_first_level_goes: Deletes(|_, named| {
        let first = named.first().map(|file| file.level);
        named.iter().filter(|file| Some(file.level) == first).copied().collect()
    }) => ["delete::files_of_several_levels"];
    a_failed_delete_is_ok: Deletes(|_, _| Vec::new()) => [
        "delete::missing_files_are_fine",
        "delete::any_number_of_files",
        "consistency::a_deleted_file_is_gone_at_once",
    ];
    deletes_happen_later: LateDeletes => [
        "consistency::a_deleted_file_is_gone_at_once",
        "linear::reads_see_the_last_write",
    ];
    deleted_files_come_back: ComesBack => ["consistency::a_deleted_file_stays_gone"];
    deleting_all_of_nothing_is_refused: RefusesAllOfNothing => [
        "isolation::deleting_all_of_nothing_is_fine",
    ];
    deleting_all_breaks_the_client: BreaksAfterAll::default() => [
        "isolation::deleting_all_of_nothing_is_fine",
        "isolation::every_level_is_emptied",
    ];
    deleting_all_eats_the_siblings: EatsSiblings => ["isolation::neighbours_are_left_alone"];
    deleting_all_leaves_the_snapshots: DeletesAll(|all| {
        all.into_iter().filter(|file| file.level != Level::SNAPSHOT).collect()
    }) => ["isolation::every_level_is_emptied", "model::any_calls_do_what_the_model_does"];
    deleting_all_ends_with_a_page: DeletesAll(|all| all.into_iter().take(1000).collect()) => [
        "isolation::every_level_is_emptied",
    ];
    a_root_begins_with_its_siblings_name: ListsSiblings => ["isolation::neighbours_are_left_alone"];
}

struct LateDeletes;

#[async_trait]
impl Bug for LateDeletes {
    async fn delete(&self, mock: &MockClient, files: &[FileId]) -> Result<()> {
        let (mock, files) = (mock.clone(), files.to_vec());
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            files.into_iter().for_each(|file| mock.remove(file));
        });
        Ok(())
    }
}

struct ComesBack;

#[async_trait]
impl Bug for ComesBack {
    async fn delete(&self, mock: &MockClient, files: &[FileId]) -> Result<()> {
        let old = mock.snapshot();
        mock.delete(files).await?;
        let mock = mock.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
            mock.restore(&old);
        });
        Ok(())
    }
}

struct RefusesAllOfNothing;

#[async_trait]
impl Bug for RefusesAllOfNothing {
    async fn delete_all(&self, mock: &MockClient) -> Result<()> {
        if mock.files().is_empty() {
            return Err(Error::new(ErrorKind::NotFound, "no such folder"));
        }
        mock.delete_all().await
    }
}

#[derive(Default)]
struct BreaksAfterAll(Mutex<bool>);

#[async_trait]
impl Bug for BreaksAfterAll {
    async fn list(
        &self,
        mock: &MockClient,
        query: crate::Query,
    ) -> Result<replica_core::FileStream> {
        if *lock(&self.0) {
            return Err(Error::new(ErrorKind::Other, "the folder is gone"));
        }
        query.ask(mock).await
    }

    async fn delete_all(&self, mock: &MockClient) -> Result<()> {
        mock.delete_all().await?;
        *lock(&self.0) = true;
        Ok(())
    }
}

/// The clients of roots whose names begin with that of `mock`, which is all its debug text tells.
fn siblings(mock: &MockClient) -> impl Iterator<Item = MockClient> + use<> {
    let text = format!("{mock:?}");
    let root = text.split('"').nth(1).unwrap_or_default().to_owned();
    let store: MockStore = mock.store().clone();
    ["2", "-old", ".x"]
        .into_iter()
        .map(move |end| store.client(&format!("{root}{end}")))
}

struct EatsSiblings;

#[async_trait]
impl Bug for EatsSiblings {
    async fn delete_all(&self, mock: &MockClient) -> Result<()> {
        for sibling in siblings(mock) {
            sibling.delete_all().await?;
        }
        mock.delete_all().await
    }
}

struct ListsSiblings;

#[async_trait]
impl Bug for ListsSiblings {
    async fn list(
        &self,
        mock: &MockClient,
        query: crate::Query,
    ) -> Result<replica_core::FileStream> {
        let mut files = query.all(mock).await?;
        for sibling in siblings(mock) {
            let listing = sibling
                .list(query.level, Txid::FIRST, Timestamps::Fast)
                .await?;
            files.extend(listing.try_collect::<Vec<_>>().await?);
        }
        Ok(replica_core::listing(files, query.from))
    }
}
