//! The pages in a browser: both themes, two widths, paper; nothing complains and nothing is loaded.
//! The page forbids every load by its policy, and a browser that refuses one says so on its console.

use super::place::{experiment, page, place, trained};
use crate::chromium::{FLAGS, chromium};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;

struct Seen {
    dom: String,
    console: Vec<String>,
}

fn open(browser: &Path, page: &Path, more: &[&str]) -> Seen {
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new(browser)
        .args(FLAGS)
        .args(["--disable-gpu", "--hide-scrollbars"])
        // Whatever the browser wants for itself goes nowhere.
        .arg("--host-resolver-rules=MAP * ~NOTFOUND")
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(more)
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    let console = err.lines().filter(|l| l.contains("CONSOLE")).map(String::from).collect();
    Seen { dom: String::from_utf8_lossy(&output.stdout).into_owned(), console }
}

/// Asks a page about itself, and works its controls as a reader would.
const ASK: &str = r#"<script nonce="asked">
addEventListener('load', () => {
  const ground = () => getComputedStyle(document.body).backgroundColor;
  const at = (hit) => { const b = hit.getBoundingClientRect(); return { clientX: b.left + b.width / 2, clientY: b.top + b.height / 2, bubbles: true }; };
  const shown = [...document.querySelectorAll('svg')].filter((s) => s.getBoundingClientRect().width > 0);
  const hit = shown.map((s) => s.querySelector('.hits > rect:not(.spot)')).find((h) => h?.nextElementSibling);
  const spot = shown.map((s) => s.querySelector('.spot')).find((h) => h);
  const tip = document.getElementById('tip');
  const found = { scroll: document.documentElement.scrollWidth, width: document.documentElement.clientWidth,
    ground: ground(), pictures: shown.length, loads: performance.getEntriesByType('resource').length,
    widest: Math.max(...shown.map((s) => s.getBoundingClientRect().right)) };
  hit.dispatchEvent(new PointerEvent('pointerdown', at(hit)));
  found.tip = tip.textContent;
  found.visible = getComputedStyle(tip).visibility;
  hit.focus();
  hit.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowRight', bubbles: true, cancelable: true }));
  found.next = document.activeElement === hit.nextElementSibling;
  spot.dispatchEvent(new PointerEvent('pointermove', at(spot)));
  found.cell = tip.textContent;
  const button = document.getElementById('theme');
  button.click(); found.light = ground();
  button.click(); found.dark = ground();
  button.click(); found.back = ground();
  parent.postMessage(JSON.stringify(found), '*');
});
</script></body>"#;

/// What a page of that name says of itself in a frame of `width`.
fn asked(browser: &Path, name: &str, width: usize, scheme: &str) -> (Value, Vec<String>) {
    let html = fs::read_to_string(place().at(name)).unwrap();
    let copy = format!("asked-{name}");
    // The page's own policy, which knows nothing of the question.
    let html = html.replace("script-src '", "script-src 'nonce-asked' '").replace("</body>", ASK);
    fs::write(place().at(&copy), html).unwrap();
    let wrapper = place().at(&format!("frame-{width}-{scheme}-{name}"));
    let frame = format!(
        "<!doctype html><meta charset=utf-8><body style=margin:0><pre id=said></pre>\
         <script>addEventListener('message', (e) => {{ said.textContent = e.data; }});</script>\
         <iframe src={copy} style='width:{width}px;height:900px;border:0;color-scheme:{scheme}'></iframe>"
    );
    fs::write(&wrapper, frame).unwrap();
    let seen = open(
        browser,
        &wrapper,
        &["--window-size=1400,1000", "--virtual-time-budget=5000", "--dump-dom"],
    );
    let said = seen.dom.split("<pre id=\"said\">").nth(1).and_then(|s| s.split("</pre>").next());
    let said = said.filter(|s| !s.is_empty());
    let said = said.unwrap_or_else(|| panic!("{name} says nothing: {:?}", seen.console));
    let said = said.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    (serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}")), seen.console)
}

#[test]
fn pages_in_a_browser() {
    let Some(browser) = chromium() else { return };
    page("seen-run.html", trained());
    page("seen-experiment.html", experiment());
    for name in ["seen-run.html", "seen-experiment.html"] {
        for width in [1280, 390] {
            for scheme in ["light", "dark"] {
                let what = format!("{name}, {width}, {scheme}");
                let (said, console) = asked(&browser, name, width, scheme);
                assert!(console.is_empty(), "{what}: {console:?}");
                assert_eq!(said["width"].as_u64(), Some(width as u64), "{what}");
                assert!(said["scroll"].as_u64() <= Some(width as u64), "{what} overflows: {said}");
                assert!(said["widest"].as_f64().unwrap() <= width as f64 + 0.5, "{what}: {said}");
                assert_eq!(said["loads"], 0, "{what}");
                assert!(said["pictures"].as_u64().unwrap() > 10, "{what}: {said}");
                assert_eq!(said[scheme], said["ground"], "{what}");
                assert_ne!(said["light"], said["dark"], "{what}");
                assert_eq!(said["back"], said["ground"], "{what}");
                assert_eq!(said["visible"], "visible", "{what}");
                assert!(
                    !said["tip"].as_str().unwrap().is_empty() && said["next"] == true,
                    "{what}: {said}"
                );
                assert!(said["cell"].as_str().unwrap().starts_with("row "), "{what}: {said}");
            }
        }
        let paper = place().at(&format!("{name}.pdf"));
        let to = format!("--print-to-pdf={}", paper.display());
        let seen = open(&browser, &place().at(name), &[&to, "--no-pdf-header-footer"]);
        assert!(seen.console.is_empty(), "{:?}", seen.console);
        assert!(fs::read(&paper).unwrap().starts_with(b"%PDF"), "{name}");
    }
}

#[test]
fn a_load_would_be_seen() {
    let Some(browser) = chromium() else { return };
    let html = fs::read_to_string(page("loads.html", trained())).unwrap();
    let bad = html.replace("</main>", "<img src=\"http://example.invalid/x.png\"></main>");
    let path = place().at("loads-something.html");
    fs::write(&path, bad).unwrap();
    let seen = open(&browser, &path, &["--virtual-time-budget=2000", "--dump-dom"]);
    assert!(
        seen.console.iter().any(|l| l.contains("Content Security Policy")),
        "{:?}",
        seen.console
    );
}
