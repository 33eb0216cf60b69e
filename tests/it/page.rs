//! The page in a real browser: pictures of a prompt, an answer about one of them and about a file, keyboard and narrow
//! screens. Pictures of the page are left in `target/page/` to be looked at.

use std::path::Path;

use super::app::TestApp;
use super::browser::Browser;
use super::golden;

/// The page once it knows its server; from then on nothing moves by itself.
fn open(app: &TestApp, width: u32) -> Browser {
    let mut page = Browser::open(&app.url, width, 900);
    page.wait_for("document.querySelector('#status').textContent.includes('random · version')");
    page
}

fn keep(browser: &mut Browser, name: &str) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../page");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(format!("{name}.png")), browser.screenshot()).unwrap();
}

#[test]
#[ignore = "needs Chromium (CHROMIUM or /usr/bin/chromium)"]
fn a_visitor_draws_and_asks() {
    let app = TestApp::start();
    let mut page = open(&app, 1280);
    keep(&mut page, "empty");

    page.click("#prompt");
    page.type_text("a red circle above a blue square");
    page.evaluate("document.querySelector('#seed').value = 7");
    page.press("Enter");
    page.wait_for("document.querySelectorAll('#gallery img').length === 4");
    page.wait_for("[...document.querySelectorAll('#gallery img')].every((i) => i.complete && i.naturalWidth === 16)");
    let seeds = page.evaluate("[...document.querySelectorAll('.seed')].map((b) => b.textContent).join()");
    assert_eq!(seeds, "seed 7,seed 8,seed 9,seed 10");

    page.click("#gallery .ask");
    page.wait_for("!document.querySelector('#preview').hidden && document.activeElement.id === 'question'");
    page.type_text("What color is the circle?");
    page.press("Enter");
    page.wait_for("document.querySelector('#answers article') && !document.querySelector('#answers .busy')");
    let said = page.evaluate("document.querySelector('#answers article .said').textContent");
    assert!(!said.as_str().unwrap().is_empty(), "there is an answer");
    keep(&mut page, "drawn-and-asked");

    // A file, as the picker and a drop give it.
    let file = golden::path("pictures/tall.png");
    let document = page.call("DOM.getDocument", serde_json::json!({}))["root"]["nodeId"].clone();
    let input = page.call("DOM.querySelector", serde_json::json!({"nodeId": document, "selector": "#file"}));
    page.call("DOM.setFileInputFiles", serde_json::json!({"files": [file], "nodeId": input["nodeId"]}));
    page.wait_for("document.querySelector('#preview').alt === 'tall.png'");
    page.evaluate("document.querySelector('#question').value = 'How tall?'");
    page.click("#ask-go");
    page.wait_for(
        "document.querySelectorAll('#answers article').length === 2 && !document.querySelector('#answers .busy')",
    );

    // What the model thinks is set apart from what it says.
    let split = page
        .evaluate("JSON.stringify([split('<think>a red'), split('<think>a</think><answer>red</ans'), split('plain')])");
    let expected = r#"[{"think":"a red","said":""},{"think":"a","said":"red</ans"},{"think":"","said":"plain"}]"#;
    assert_eq!(split, expected);

    // A refusal is shown where it arose.
    page.evaluate("document.querySelector('#prompt').value = 'x '.repeat(9000)");
    page.click("#draw-go");
    page.wait_for("document.querySelector('#draw-note.wrong')?.textContent.includes('too long')");

    page.click("#theme");
    keep(&mut page, "other-theme");
    assert!(page.complaints.iter().all(|c| c.contains("status of 400")), "{:#?}", page.complaints);
}

#[test]
#[ignore = "needs Chromium (CHROMIUM or /usr/bin/chromium)"]
fn a_key_is_asked_for_once() {
    let app = TestApp::with(&["--api-key", "sk-page"]);
    let mut page = open(&app, 420);
    page.click("#prompt");
    page.type_text("a star");
    page.press("Enter");
    page.wait_for("document.querySelector('#key-dialog').open");
    keep(&mut page, "key");
    page.type_text("sk-page");
    page.press("Enter");
    page.wait_for("document.querySelectorAll('#gallery img').length === 4");
    page.click("#draw-go");
    page.wait_for(
        "document.querySelectorAll('#gallery img').length === 4 && !document.querySelector('#key-dialog').open",
    );
    let overflow = page.evaluate("document.documentElement.scrollWidth > innerWidth");
    assert_eq!(overflow, false, "nothing is wider than a phone");
    keep(&mut page, "narrow");
}

#[test]
#[ignore = "needs Chromium (CHROMIUM or /usr/bin/chromium)"]
fn everything_has_a_name_for_those_who_cannot_see() {
    let app = TestApp::start();
    let mut page = open(&app, 1280);
    let tree = page.call("Accessibility.getFullAXTree", serde_json::json!({}));
    let mut named = 0;
    for node in tree["nodes"].as_array().unwrap() {
        let role = node["role"]["value"].as_str().unwrap_or_default();
        if ["button", "textbox", "spinbutton", "checkbox", "link"].contains(&role) && node["ignored"] == false {
            assert!(!node["name"]["value"].as_str().unwrap_or_default().is_empty(), "a {role} has no name: {node}");
            named += 1;
        }
    }
    assert!(named > 12, "{named}");
}
