//! A small reader of HTML as strict as XML: for pages that are made by machine.

use std::collections::HashSet;

pub struct Tag {
    pub name: String,
    pub attributes: Vec<(String, String)>,
}

const VOID: [&str; 4] = ["meta", "br", "img", "link"];

/// The tags that open, in order, and all text outside them.
///
/// # Panics
/// Tags that are not balanced, attributes without quotes, a stray `<` or `&`.
pub fn parse(page: &str) -> (Vec<Tag>, String) {
    let (mut tags, mut open, mut text) = (Vec::new(), Vec::<String>::new(), String::new());
    let mut rest = page.strip_prefix("<!DOCTYPE html>").expect("a doctype");
    while let Some(at) = rest.find('<') {
        text.push_str(&plain(&rest[..at]));
        text.push('\n');
        rest = &rest[at + 1..];
        if let Some(closing) = rest.strip_prefix('/') {
            let end = closing.find('>').expect("an end");
            assert_eq!(open.pop().as_deref(), Some(&closing[..end]), "near {}", near(closing));
            rest = &closing[end + 1..];
            continue;
        }
        let (tag, closed, after) = tag(rest);
        rest = after;
        if ["script", "style"].contains(&tag.name.as_str()) {
            let end = rest.find(&format!("</{}>", tag.name)).expect("its end");
            rest = &rest[end..];
        }
        if !closed && !VOID.contains(&tag.name.as_str()) {
            open.push(tag.name.clone());
        }
        tags.push(tag);
    }
    text.push_str(&plain(rest));
    assert!(open.is_empty(), "never closed: {open:?}");
    (tags, text)
}

fn near(text: &str) -> &str {
    text.char_indices().nth(80).map_or(text, |(i, _)| &text[..i])
}

fn tag(from: &str) -> (Tag, bool, &str) {
    let letter = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == ':';
    let end = from.find(|c| !letter(c)).expect("an end");
    assert!(end > 0, "a stray < near {}", near(from));
    let (name, mut rest) = from.split_at(end);
    let mut attributes = Vec::new();
    loop {
        rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix("/>") {
            return (Tag { name: name.into(), attributes }, true, after);
        }
        if let Some(after) = rest.strip_prefix('>') {
            return (Tag { name: name.into(), attributes }, false, after);
        }
        let end = rest.find(|c| !letter(c)).expect("an attribute's end");
        assert!(end > 0, "no attribute near {}", near(rest));
        let (key, after) = rest.split_at(end);
        let Some(after) = after.strip_prefix("=\"") else {
            attributes.push((key.into(), String::new()));
            rest = after;
            continue;
        };
        let end = after.find('"').expect("a quote");
        attributes.push((key.into(), plain(&after[..end])));
        rest = &after[end + 1..];
    }
}

/// Text without entities; a stray `&` fails.
fn plain(text: &str) -> String {
    let mut parts = text.split('&');
    let mut out = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let (entity, rest) = part.split_once(';').unwrap_or_else(|| panic!("a stray & in {text}"));
        out.push(match entity {
            "lt" => '<',
            "gt" => '>',
            "amp" => '&',
            "quot" => '"',
            "apos" | "#39" => '\'',
            other => panic!("the entity {other}"),
        });
        out.push_str(rest);
    }
    out
}

/// What every page must be; returns its text.
pub fn check(page: &str) -> String {
    let (tags, text) = parse(page);
    let value = |tag: &Tag, key: &str| {
        tag.attributes.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone())
    };
    let mut ids = HashSet::new();
    for id in tags.iter().filter_map(|t| value(t, "id")) {
        assert!(ids.insert(id.clone()), "the id {id} twice");
    }
    let mut level = 0;
    for tag in &tags {
        for (key, value) in &tag.attributes {
            assert!(!key.starts_with("on") && key != "src" && key != "srcset", "{key}={value}");
            assert!(!value.contains("url("), "{key}={value}");
            if key == "href" || key == "xlink:href" {
                let target = value.strip_prefix('#').unwrap_or_else(|| panic!("{key}={value}"));
                assert!(ids.contains(target), "nothing is at #{target}");
            }
            if key == "data-values" {
                assert!(ids.contains(value), "no values at {value}");
            }
        }
        assert!(!["img", "link", "iframe", "object", "use", "image"].contains(&tag.name.as_str()));
        if tag.name == "svg" {
            let label = value(tag, "aria-label").unwrap_or_default();
            assert!(!label.is_empty(), "a picture without a name");
        }
        if let Some(deeper) = tag.name.strip_prefix('h').and_then(|n| n.parse::<usize>().ok()) {
            assert!(deeper <= level + 1, "h{deeper} after h{level}");
            level = deeper;
        }
    }
    let count = |name: &str| tags.iter().filter(|t| t.name == name).count();
    assert_eq!((count("h1"), count("main"), count("nav"), count("script")), (1, 1, 1, 1));
    for word in ["@import", "url(", "fetch(", "XMLHttpRequest", "import("] {
        assert!(!page.contains(word), "{word}");
    }
    assert!(!page.contains("#0100") && !page.contains("NaN") && !page.contains(">inf"));
    text
}
