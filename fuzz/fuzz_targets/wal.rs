//! Any bytes are a WAL up to some frame, the same one read at once and bit by bit; and what is
//! found in it is found again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ltx::Pgno;
use replica_engine::wal::{
    ByteOrder, Chain, Changed, Changes, FRAME_HEADER_SIZE, Frame, HEADER_SIZE, WalHeader,
};

fuzz_target!(|input: &[u8]| {
    // The first byte says in which steps the WAL grows, and whether checksums are set right:
    // nobody guesses one.
    let Some((&first, wal)) = input.split_first() else {
        return;
    };
    let repaired;
    let wal = if first & 1 == 1 {
        repaired = repair(wal);
        &repaired[..]
    } else {
        wal
    };
    let Ok(header) = WalHeader::parse(wal) else {
        return;
    };
    assert_eq!(&header.encode()[..], &wal[..HEADER_SIZE]);

    let at_once = collect(wal, Changes::since(Chain::new(header))).finish();
    let mut growing = Changes::since(Chain::new(header));
    for len in (0..wal.len()).step_by(usize::from(first) + 1) {
        growing = collect(&wal[..len], growing);
    }
    assert_eq!(collect(wal, growing).finish(), at_once);

    check(wal, &at_once);
});

fn collect(wal: &[u8], mut changes: Changes) -> Changes {
    loop {
        let rest = wal.get(changes.next().offset() as usize..);
        if changes.take(rest.unwrap_or_default()).is_err() {
            return changes;
        }
    }
}

fn check(wal: &[u8], changed: &Changed) {
    let page_size = changed.end().header().page_size();
    let commit = changed.commit().map_or(0, |commit| commit.get());
    let mut last = 0;
    for page in changed.pages() {
        let number = page.pgno().get();
        assert!(last < number && number <= commit && page.pgno() != page_size.lock_page());
        last = number;
        assert!(page.offset(page_size) < changed.end().offset());
        let frame = &wal[page.offset(page_size) as usize..];
        let content = page.verify(changed.end(), frame);
        let content = content.expect("a page that was found is found again");
        assert_eq!(content.len(), page_size.bytes());
    }
}

/// The same WAL with every checksum, salt and page number right, so that what lies behind them is
/// reached.
fn repair(wal: &[u8]) -> Vec<u8> {
    let mut wal = wal.to_vec();
    let Some((head, frames)) = wal.split_first_chunk_mut::<HEADER_SIZE>() else {
        return wal;
    };
    let number = |at: usize, bytes: &[u8]| {
        let bytes = bytes[at..].first_chunk().expect("a header is longer");
        u32::from_be_bytes(*bytes)
    };
    let order = if head[3] & 1 == 0 {
        ByteOrder::Little
    } else {
        ByteOrder::Big
    };
    let page_size = ltx::PageSize::new(512 << (head[11] % 3)).expect("a power of two");
    let header = WalHeader::new(
        order,
        page_size,
        number(12, head),
        [number(16, head), number(20, head)],
    );
    *head = header.encode();
    let mut chain = Chain::new(header);
    for frame in frames.chunks_exact_mut(header.frame_size()) {
        let pgno = Pgno::new(number(0, frame).max(1)).expect("1 or more");
        let commit = number(4, frame);
        let right = chain.encode(Frame { pgno, commit }, &frame[FRAME_HEADER_SIZE..]);
        frame.copy_from_slice(&right);
        chain.link(frame).expect("what was encoded is a frame");
    }
    wal
}
