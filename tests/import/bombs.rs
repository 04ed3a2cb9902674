//! Small files that claim to be large.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Write;

use crate::place::{convert, folder, refused};

/// The system's allocator, counting what this thread holds and the most it held.
pub struct Counted;

thread_local! {
    static HELD: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

fn change(bytes: isize) {
    // A thread that is ending has no counter any more.
    let _ = HELD.try_with(|held| {
        let (now, most) = held.get();
        held.set((now + bytes, most.max(now + bytes)));
    });
}

// SAFETY: everything is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        change(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        change(layout.size() as isize);
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        change(-(layout.size() as isize));
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both are held while it is copied.
        change(size as isize);
        let moved = unsafe { System.realloc(at, layout, size) };
        change(-(layout.size() as isize));
        moved
    }
}

/// What a file may take beyond twice its size.
pub const FIXED: usize = 40 << 20;

/// Runs `work` and says how many bytes this thread came to hold more than before.
pub fn peak<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.with(|held| {
        let (now, _) = held.get();
        held.set((now, now));
        now
    });
    let done = work();
    let most = HELD.with(|held| held.get().1);
    (done, (most - before).max(0) as usize)
}

/// The file is refused, within its memory.
fn bounded(bytes: &[u8], words: &[&str]) {
    let (error, peak) = peak(|| refused(bytes));
    let limit = 2 * bytes.len() + FIXED;
    assert!(peak <= limit, "{peak} bytes held for a file of {}: {error}", bytes.len());
    for word in words {
        assert!(error.contains(word), "no '{word}' in: {error}");
    }
}

fn with(head: &[u8], body: &[u8], times: usize) -> Vec<u8> {
    let mut bytes = head.to_vec();
    (0..times).for_each(|_| bytes.extend(body));
    bytes.push(b'.');
    bytes
}

#[test]
fn the_counter_counts() {
    let (kept, peak) = peak(|| {
        drop(vec![0u8; 3 << 20]);
        vec![0u8; 1 << 20]
    });
    assert_eq!(kept.len(), 1 << 20);
    assert!((3 << 20..4 << 20).contains(&peak), "{peak}");
}

#[test]
fn one_byte_instructions_by_the_million() {
    let many = 4 << 20;
    for body in [&b"N"[..], b"]", b"}", b"N\x94", b"(", b"(l", b"N\x85", b"2", b")"] {
        let head: &[u8] = if body == b"2" { b"\x80\x04N" } else { b"\x80\x04" };
        bounded(&with(head, body, many / body.len()), &[]);
    }
    // A list that grows by what the memo remembers.
    bounded(&with(b"\x80\x04]\x94", b"h\x00a", many / 3), &[]);
    bounded(&with(b"\x80\x04}\x94(", b"h\x00", many / 2), &[]);
}

#[test]
fn lengths_that_the_file_does_not_have() {
    let huge = u64::MAX.to_le_bytes();
    for code in [0x8d, 0x8e, 0x96, 0x95] {
        bounded(&[&[0x80, 4, code][..], &huge].concat(), &["byte 2", "cut short"]);
    }
    bounded(b"\x80\x02X\xff\xff\xff\x7fabc", &["byte 2", "cut short"]);
    bounded(b"\x80\x02Nr\xff\xff\xff\x7f.", &["byte 3", "memo entry 2147483647"]);
    bounded(b"\x80\x02\x8b\xff\xff\xff\x7f.", &["cut short"]);
    bounded(b"\x80\x02j\x01\x00\x00\x00.", &["byte 2", "memo entry 1"]);
}

/// `numpy._core.numeric._frombuffer(payload, dtype(name), shape, 'C')`.
fn array(payload: &[u8], name: &str, shape: &[u64]) -> Vec<u8> {
    let mut out = b"cnumpy.core.numeric\n_frombuffer\n(".to_vec();
    out.push(0x96);
    out.extend((payload.len() as u64).to_le_bytes());
    out.extend(payload);
    out.extend(b"cnumpy\ndtype\n\x8c");
    out.push(name.len() as u8);
    out.extend(name.as_bytes());
    out.extend(b"\x89\x88\x87R(");
    for axis in shape {
        out.extend(b"\x8a\x08");
        out.extend(axis.to_le_bytes());
    }
    out.extend(b"t\x8c\x01CtR");
    out
}

/// `{'train': {field: array}}`.
fn file(field: &str, array: &[u8]) -> Vec<u8> {
    let mut out = b"\x80\x05}(\x8c\x05train}(\x8c".to_vec();
    out.push(field.len() as u8);
    out.extend(field.as_bytes());
    out.extend(array);
    out.extend(b"uu.");
    out
}

#[test]
fn shapes_that_the_payload_does_not_have() {
    // The helpers make what numpy makes.
    let folder = folder();
    let (source, out) = (folder.path().join("in.pkl"), folder.path().join("out.safetensors"));
    std::fs::write(&source, file("audio", &array(&[0; 24], "f4", &[3, 2]))).unwrap();
    convert(&source, &out).unwrap();

    for shape in [&[1 << 40, 1 << 40][..], &[1 << 62, 4], &[7], &[]] {
        bounded(&file("audio", &array(&[0; 24], "f4", shape)), &["shape", "byte "]);
    }
    bounded(&file("audio", &array(&[0; 24], "f4", &[u64::MAX])), &["shape"]);
    for shape in [[1 << 60, 0], [0, 1 << 60]] {
        bounded(&file("audio", &array(&[], "f4", &shape)), &["an axis of its shape is 0"]);
    }
    bounded(&file("id", &array(&[], "U0", &[1 << 60])), &["more memory"]);
    bounded(&file("id", &array(&[], "U99999999999999999999", &[3])), &[]);
}

#[test]
fn one_array_under_many_names() {
    // A thousand rows that are all the same megabyte.
    let mut list = array(&[1; 1 << 20], "f4", &[1 << 10, 1 << 8]);
    list.extend(b"\x940](");
    (0..1000).for_each(|_| list.extend(b"h\x00"));
    list.push(b'e');
    bounded(&file("audio", &list), &["train.audio", "the same array for several rows"]);
    let mut list = b"\x8d".to_vec();
    list.extend((1u64 << 20).to_le_bytes());
    list.extend(vec![b'x'; 1 << 20]);
    list.extend(b"\x940](");
    (0..1000).for_each(|_| list.extend(b"h\x00"));
    list.push(b'e');
    bounded(&file("raw_text", &list), &["train.raw_text", "more memory"]);
}

/// A `.npy` header.
fn npy(descr: &str, shape: &str) -> Vec<u8> {
    let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend((text.len() as u16).to_le_bytes());
    out.extend(text.as_bytes());
    out
}

#[test]
fn archives_that_unpack_to_far_more_than_they_are() {
    let place = folder();
    let (source, out) = (place.path().join("in.npz"), place.path().join("out.safetensors"));
    let mut zip = zip::ZipWriter::new(std::fs::File::create(&source).unwrap());
    let packed = zip::write::SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Deflated);
    zip.start_file("train_regression_labels.npy", packed).unwrap();
    zip.write_all(&npy("<f8", "(40000000,)")).unwrap();
    (0..320).for_each(|_| zip.write_all(&vec![0; 1_000_000]).unwrap());
    zip.finish().unwrap();
    let size = source.metadata().unwrap().len() as usize;
    assert!(size < 1 << 20, "{size}");
    let (error, peak) = peak(|| convert(&source, &out).expect_err("refused").to_string());
    assert!(error.contains("train_regression_labels") && error.contains("200 times"), "{error}");
    assert!(peak <= 2 * size + FIXED && !out.exists(), "{peak} for {size}");
}

#[test]
fn strings_without_letters_are_refused_before_they_are_counted() {
    let place = folder();
    for descr in ["<U0", "|S0"] {
        let array = npy(descr, "(1000000000000,)");
        std::fs::write(place.path().join("train_id.npy"), array).unwrap();
        let out = place.path().join("out.safetensors");
        let (error, peak) = peak(|| convert(place.path(), &out).expect_err("refused").to_string());
        assert!(error.contains("without room for a letter"), "{error}");
        assert!(peak <= FIXED, "{peak}");
    }
}
