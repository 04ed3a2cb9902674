//! Pickles that would do something, if something ran them.

use crate::place::{convert, folder, pickles, refused};

/// Refused at the byte where the name stands, with the name; and the command was not run.
fn harmless(bytes: &[u8], at: usize, name: &str) {
    let marker = std::env::temp_dir().join("modalign-import-was-here");
    let _ = std::fs::remove_file(&marker);
    let error = refused(bytes);
    assert!(error.contains(&format!("byte {at}: it calls {name}, ")), "{error}");
    assert!(error.contains("nothing of it was run"), "{error}");
    assert!(!marker.exists(), "it ran");
}

fn command() -> String {
    format!("touch {}", std::env::temp_dir().join("modalign-import-was-here").display())
}

/// A call of `module.name(argument)` by GLOBAL.
fn call(module: &str, name: &str, argument: &str) -> Vec<u8> {
    let mut out = format!("c{module}\n{name}\n").into_bytes();
    out.push(b'X');
    out.extend((argument.len() as u32).to_le_bytes());
    out.extend(argument.as_bytes());
    out.extend(b"\x85R");
    out
}

#[test]
fn calls_of_anything_else_are_refused() {
    for (module, name) in [
        ("os", "system"),
        ("posix", "system"),
        ("nt", "system"),
        ("subprocess", "Popen"),
        ("builtins", "eval"),
        ("builtins", "exec"),
        ("__builtin__", "eval"),
        ("builtins", "getattr"),
        ("numpy", "load"),
        ("numpy.core.multiarray", "fromfile"),
        ("numpy.testing._private.utils", "runstring"),
        ("_codecs", "decode"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("pandas.core.frame", "DataFrame"),
    ] {
        let bytes = [b"\x80\x02", &call(module, name, &command())[..], b"."].concat();
        harmless(&bytes, 2, &format!("{module}.{name}"));
        // STACK_GLOBAL takes the names from strings.
        let mut bytes = b"\x80\x04".to_vec();
        for part in [module, name] {
            bytes.extend([0x8c, part.len() as u8]);
            bytes.extend(part.as_bytes());
        }
        let at = bytes.len();
        bytes.extend(b"\x93)R.");
        harmless(&bytes, at, &format!("{module}.{name}"));
    }
}

#[test]
fn a_call_inside_an_honest_file_is_refused() {
    for path in pickles() {
        let honest = std::fs::read(&path).unwrap();
        // In place of the end: the honest dict and, beside it, the call.
        let end = honest.len() - 1;
        let evil = [&honest[..end], &call("posix", "system", &command())[..], b"0."].concat();
        harmless(&evil, end, "posix.system");
    }
    // As the argument of an allowed call, deep in tuples, as a key, as a state.
    let evil = call("os", "system", &command());
    for (head, tail) in [
        (&b"\x80\x02c_codecs\nencode\n"[..], &b"X\x06\x00\x00\x00latin1\x86R."[..]),
        (b"\x80\x02((((((", b"tttttt."),
        (b"\x80\x02}(", b"Nu."),
        (b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n)N\x87R", b"b."),
    ] {
        harmless(&[head, &evil[..], tail].concat(), head.len(), "os.system");
    }
}

#[test]
fn names_are_shown_safely() {
    let error = refused(b"\x80\x02cos\x1b[2J\nsys\ttem\n.");
    assert!(error.contains(r"calls os\u{1b}[2J.sys\ttem"), "{error}");
    let long = [&b"\x80\x02c"[..], &[b'a'; 500][..], b"\nb\n."].concat();
    assert!(refused(&long).contains("byte 2: it calls aaa"));
    let longer = [&b"\x80\x02c"[..], &[b'a'; 5000][..], b"\nb\n."].concat();
    assert!(refused(&longer).contains("a name without an end"));
}

#[test]
fn classes_and_things_outside_the_file_are_refused() {
    for (bytes, words) in [
        (&b"\x80\x02)\x81."[..], "byte 3: it makes an object of a class"),
        (b"\x80\x02(ios\nsystem\n.", "byte 3: it makes an object of a class"),
        (b"\x80\x02(o.", "byte 3: it makes an object of a class"),
        (b"\x80\x04\x92.", "byte 2: it makes an object of a class"),
        (b"\x80\x02Pabc\n.", "byte 2: it refers to something outside"),
        (b"\x80\x02NQ.", "byte 3: it refers to something outside"),
        (b"\x80\x02\x82\x01.", "byte 2: it refers to something outside"),
        (b"\x80\x05\x97.", "byte 2: it refers to something outside"),
        (b"\x80\x01N.", "byte 0: pickle protocol 1 is not 2 to 5"),
        (b"\x80\x06N.", "byte 0: pickle protocol 6 is not 2 to 5"),
        (b"(dp0\n.", "not a pickle of protocol 2 to 5"),
        (b"\x80\x02I1\n.", "byte 2: it is of protocol 0 or 1"),
        (b"\x80\x02\xff.", "byte 2: byte 0xff is no instruction"),
        (b"\x80\x02NN)R.", "byte 5: calls something that is no function"),
        (b"\x80\x02NNb.", "byte 4: sets the state of something that has none"),
        (b"\x80\x02N.", "the pickle is no dict"),
        (b"\x80\x02}.", "none of train, valid and test is a dict"),
        (b"\x80\x02", "cut short"),
        (b"\x80\x02(0.", "takes a value where there is none"),
        (b"\x80\x02e.", "no mark"),
        (b"\x80\x02Na.", "too few values"),
        (b"\x80\x02N(Ne.", "no list and no dict"),
    ] {
        let error = refused(bytes);
        assert!(error.contains(words), "no '{words}' in: {error}");
    }
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    let folder = folder();
    let (source, out) = (folder.path().join("in.pkl"), folder.path().join("out.safetensors"));
    for path in pickles() {
        let whole = std::fs::read(path).unwrap();
        for end in 1..whole.len() {
            if end % 7 == 0 || end < 200 || end + 50 > whole.len() {
                std::fs::write(&source, &whole[..end]).unwrap();
                let error = convert(&source, &out).expect_err("cut").to_string();
                assert!(error.contains("cut short"), "{end}: {error}");
            }
        }
    }
    std::fs::write(&source, b"").unwrap();
    assert!(convert(&source, &out).unwrap_err().to_string().contains("the file is empty"));
    std::fs::remove_file(&source).unwrap();
    assert!(convert(&source, &out).unwrap_err().to_string().contains("no such file"));
    assert!(!out.exists());
}
