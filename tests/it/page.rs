//! The page in a real browser: pictures of a prompt, an answer about one of them and about a file, what a visitor says of
//! them, the history, keyboard and narrow screens. Pictures of the page are left in `target/page/` to be looked at.

use std::path::Path;

use serde_json::{Value, json};

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
    let document = page.call("DOM.getDocument", json!({}))["root"]["nodeId"].clone();
    let input = page.call("DOM.querySelector", json!({"nodeId": document, "selector": "#file"}));
    page.call("DOM.setFileInputFiles", json!({"files": [file], "nodeId": input["nodeId"]}));
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
    assert!(named(&mut page) > 14);
}

/// How many things can be used; each of them must have a name.
fn named(page: &mut Browser) -> usize {
    let tree = page.call("Accessibility.getFullAXTree", json!({}));
    let mut named = 0;
    for node in tree["nodes"].as_array().unwrap() {
        let role = node["role"]["value"].as_str().unwrap_or_default();
        if ["button", "textbox", "spinbutton", "checkbox", "link"].contains(&role) && node["ignored"] == false {
            assert!(!node["name"]["value"].as_str().unwrap_or_default().is_empty(), "a {role} has no name: {node}");
            named += 1;
        }
    }
    named
}

/// Draws two pictures.
fn draw_two(page: &mut Browser) {
    page.evaluate("document.querySelector('#n').value = 2");
    page.click("#prompt");
    page.type_text("two green stars");
    page.press("Enter");
    page.wait_for("document.querySelectorAll('#gallery figure').length === 2");
}

/// Waits until `selector` is shown as pressed, or as not.
fn wait_pressed(page: &mut Browser, selector: &str, pressed: bool) {
    page.wait_for(&format!("document.querySelector({selector:?}).ariaPressed === '{pressed}'"));
}

/// What the server has of this browser: the opinions that name the sample shown by `selector`.
fn heard(page: &mut Browser, selector: &str) -> Vec<Value> {
    let script = format!(
        "(async () => {{ const sample = document.querySelector({selector:?}).dataset.sample; \
         const key = sessionStorage.getItem('key'); \
         const headers = key ? {{ Authorization: `Bearer ${{key}}` }} : {{}}; \
         const reply = await (await fetch(`/v1/feedback?sample_id=${{sample}}`, {{ headers }})).json(); \
         return reply.data.filter((one) => one.rater === localStorage.getItem('rater')); }})()"
    );
    page.evaluate(&script).as_array().unwrap().clone()
}

#[test]
#[ignore = "needs Chromium (CHROMIUM or /usr/bin/chromium)"]
fn a_visitor_says_what_was_good() {
    let app = TestApp::start();
    let mut page = open(&app, 1280);
    page.evaluate("document.querySelector('#seed').value = 7");
    draw_two(&mut page);
    let (first, second) = ("#gallery figure:nth-child(1)", "#gallery figure:nth-child(2)");
    let (up, down) = (format!("{first} .up"), format!("{first} .down"));

    page.click(&up);
    wait_pressed(&mut page, &up, true);
    let said = heard(&mut page, first);
    assert_eq!((said.len(), &said[0]["thumb"]), (1, &json!("up")));
    assert!(said[0]["rater"].as_str().unwrap().starts_with("page-"));
    page.click(&down);
    wait_pressed(&mut page, &down, true);
    wait_pressed(&mut page, &up, false);
    let changed = heard(&mut page, first);
    assert_eq!((changed.len(), &changed[0]["thumb"], &changed[0]["id"]), (1, &json!("down"), &said[0]["id"]));
    page.click(&down);
    wait_pressed(&mut page, &down, false);
    assert_eq!(heard(&mut page, first), Vec::<Value>::new());
    // A click that comes before the one before it is answered still finds what that did.
    page.evaluate(&format!("for (const _ of '123') document.querySelector({up:?}).click()"));
    wait_pressed(&mut page, &up, true);
    page.wait_for("turn.then(() => true)");
    assert_eq!(heard(&mut page, first).len(), 1);

    let (best, better) = (format!("{first} .best"), format!("{second} .best"));
    page.click(&best);
    wait_pressed(&mut page, &best, true);
    page.click(&better);
    wait_pressed(&mut page, &better, true);
    wait_pressed(&mut page, &best, false);
    let said = heard(&mut page, second);
    let samples = page.evaluate("[...document.querySelectorAll('#gallery figure')].map((f) => f.dataset.sample)");
    assert_eq!((said.len(), &said[0]["preferred"]), (1, &samples[1]), "one is the best");
    assert_eq!(said[0]["over"], json!([samples[0]]));

    page.click("#gallery .ask");
    page.type_text("How many stars are there?");
    page.press("Enter");
    page.wait_for("document.querySelector('#answers .correct')?.checkVisibility() && !document.querySelector('.busy')");
    let reply = "#answers .reply";
    page.click("#answers .down");
    wait_pressed(&mut page, "#answers .down", true);
    page.click("#answers .correct");
    page.wait_for("document.activeElement.matches('#answers .correction input')");
    page.type_text("two");
    named(&mut page);
    keep(&mut page, "correcting");
    page.press("Enter");
    page.wait_for("document.querySelector('#answers .thanks').textContent.startsWith('Thank you')");
    assert_eq!(page.evaluate("document.querySelector('#answers .correction').checkVisibility()"), false);
    let said = heard(&mut page, reply);
    assert_eq!(said.iter().filter(|one| one["correction"] == "two").count(), 1);
    assert_eq!(said.iter().filter(|one| one["thumb"] == "down").count(), 1);
    keep(&mut page, "said");

    // What is not kept cannot be rated, and a refusal is shown where it arose.
    let hidden = "figure({b64_json: '', seed: 1}, 'a star', {samples: []}).querySelector('.feedback').hidden";
    assert_eq!(page.evaluate(hidden), true);
    page.evaluate(
        "fetch('/v1/images/generations?limit=1').then((reply) => reply.json()) \
         .then((page) => fetch(`/v1/images/generations/${page.data[0].id}`, {method: 'DELETE'})).then(() => 0)",
    );
    page.click(&up);
    page.wait_for(&format!("document.querySelector('{first} .note.wrong')?.textContent.length > 5"));
    keep(&mut page, "refused");
    assert!(page.complaints.iter().all(|c| c.contains("status of 404")), "{:#?}", page.complaints);
}

#[test]
#[ignore = "needs Chromium (CHROMIUM or /usr/bin/chromium)"]
fn the_history_comes_page_by_page() {
    let app = TestApp::start();
    let mut page = open(&app, 420);
    page.click("#drawn-more");
    page.wait_for("document.querySelector('#drawn-note').textContent === 'Nothing is kept yet.'");
    page.evaluate(
        "(async () => { for (let i = 0; i <= PAGE; i++) \
         await json('POST', '/v1/images/generations', {prompt: `${i} stars`}); })()",
    );
    page.call("Page.reload", json!({}));
    page.wait_for("document.querySelector('#status')?.textContent.includes('version') && !$('drawn').children.length");
    page.click("#drawn-more");
    page.wait_for("document.querySelectorAll('#drawn article').length === PAGE");
    assert_eq!(page.evaluate("document.querySelector('#drawn-more').textContent"), "More pictures");
    assert_eq!(page.evaluate("document.querySelector('#drawn .best').checkVisibility()"), false, "one alone");
    page.click("#drawn-more");
    page.wait_for("document.querySelectorAll('#drawn article').length === PAGE + 1");
    page.wait_for("document.querySelector('#drawn-more').hidden");
    let order = "[...document.querySelectorAll('#drawn .question')].map((p) => parseInt(p.textContent)).join()";
    assert_eq!(page.evaluate(order), "12,11,10,9,8,7,6,5,4,3,2,1,0");
    assert_eq!(page.complaints, Vec::<String>::new());
}

#[test]
#[ignore = "needs Chromium (CHROMIUM or /usr/bin/chromium)"]
fn what_was_made_before_is_found_and_deleted() {
    let app = TestApp::with(&["--api-key", "sk-page"]);
    let mut page = open(&app, 420);
    page.evaluate("sessionStorage.setItem('key', 'sk-page')");
    draw_two(&mut page);
    page.click("#gallery .up");
    wait_pressed(&mut page, "#gallery .up", true);
    page.click("#gallery figure + figure .best");
    wait_pressed(&mut page, "#gallery figure + figure .best", true);
    page.click("#gallery .ask");
    page.type_text("How many stars are there?");
    page.press("Enter");
    page.wait_for("document.querySelector('#answers .correct')?.checkVisibility() && !document.querySelector('.busy')");

    page.call("Page.reload", json!({}));
    page.wait_for(
        "document.querySelector('#status')?.textContent.includes('version') && !$('gallery').children.length",
    );
    page.click("#drawn-more");
    page.wait_for("[...document.querySelectorAll('#drawn img')].filter((i) => i.naturalWidth === 16).length === 2");
    wait_pressed(&mut page, "#drawn figure:nth-child(1) .up", true);
    wait_pressed(&mut page, "#drawn figure:nth-child(2) .best", true);
    assert_eq!(page.evaluate("document.querySelector('#drawn .question').textContent"), "two green stars");
    page.click("#asked-more");
    page.wait_for("document.querySelector('#asked .said')?.textContent.length > 0");
    page.click("#asked .conversation summary");
    page.wait_for("document.querySelector('#asked .question')?.textContent === 'How many stars are there?'");
    page.wait_for("document.querySelector('#asked .conversation img').naturalWidth === 16");
    named(&mut page);
    let overflow = "document.documentElement.scrollWidth > innerWidth";
    assert_eq!(page.evaluate(overflow), false, "nothing is wider than a phone");
    keep(&mut page, "history-narrow");

    // A picture of the history can be asked about, and what is made now comes in front.
    page.click("#drawn figure .ask");
    page.wait_for("document.querySelector('#preview').alt === 'two green stars'");
    draw_two(&mut page);
    page.wait_for("document.querySelectorAll('#drawn article').length === 2");
    // The same sample is shown twice and has one state.
    page.click("#gallery figure + figure .down");
    wait_pressed(&mut page, "#drawn figure + figure .down", true);
    let wide = json!({"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": false});
    page.call("Emulation.setDeviceMetricsOverride", wide);
    keep(&mut page, "history");
    page.click("#theme");
    keep(&mut page, "history-other-theme");

    page.click("#drawn .delete");
    page.wait_for("document.querySelector('#drawn .delete').textContent === 'Really delete?'");
    page.evaluate("document.activeElement.blur()");
    page.wait_for("document.querySelector('#drawn .delete').textContent === 'Delete'");
    delete(&mut page, "#drawn .delete");
    page.wait_for("document.querySelectorAll('#drawn article').length === 1");
    page.wait_for("document.activeElement.matches('#drawn .delete')");
    assert_eq!(page.evaluate("document.querySelectorAll('#gallery .feedback').length"), 0, "gone there as well");
    delete(&mut page, "#drawn .delete");
    delete(&mut page, "#asked .delete");
    page.wait_for("!document.querySelector('#drawn article, #asked article')");
    let left = "Promise.all(['images/generations', 'chat/completions'].map(async (path) => \
                (await json('GET', `/v1/${path}`)).data.length)).then((counts) => counts.join())";
    assert_eq!(page.evaluate(left), "0,0");
    assert_eq!(page.complaints, Vec::<String>::new());
}

#[test]
#[ignore = "needs Chromium (CHROMIUM or /usr/bin/chromium)"]
fn an_operator_sees_rounds_and_changes_versions() {
    let app = TestApp::start();
    let home = app.engine.model().version().0.clone();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let next = runtime.block_on(super::swap::another(&app));
    let mut page = open(&app, 1280);
    page.click("#learning summary");
    page.wait_for("document.querySelectorAll('#versions article').length === 2");
    let button = |version: &str| format!("#versions article:has(button[aria-label*='{}']) button", &version[..12]);
    page.click("#versions button[aria-label^='Try it']");
    page.click("#versions button[data-sure]");
    page.wait_for("[...document.querySelectorAll('#versions header')].some((h) => h.textContent.includes('on trial'))");
    page.wait_for("document.querySelector('#versions').textContent.includes('200 more are wanted')");
    keep(&mut page, "trial");
    page.click(&button(&next));
    page.wait_for(
        "[...document.querySelectorAll('#versions button')].some((b) => b.textContent === 'Really make it live?')",
    );
    page.click("#versions button[data-sure]");
    page.wait_for(&format!("document.querySelector('#status').textContent.includes('{}')", &next[..12]));
    page.wait_for("[...document.querySelectorAll('#versions header')].some((h) => h.textContent.includes('live'))");

    page.click("#beside-go");
    page.wait_for("[...document.querySelectorAll('#beside img')].filter((i) => i.naturalWidth === 16).length === 8");
    page.click("#learn-go");
    page.wait_for("document.querySelector('#rounds article')?.textContent.includes('open')");
    named(&mut page);
    keep(&mut page, "learning");
    page.click("#rounds button");
    page.wait_for("document.querySelector('#rounds article').textContent.includes('cancelled')");
    page.wait_for(&format!("document.querySelector(\"{}\")?.textContent === 'Take it back'", button(&next)));
    page.click(&button(&next));
    page.click("#versions button[data-sure]");
    page.wait_for(&format!("document.querySelector('#status').textContent.includes('{}')", &home[..12]));
    assert_eq!(page.complaints, Vec::<String>::new());
}

/// Deletes what a button offers to, and means it.
fn delete(page: &mut Browser, button: &str) {
    page.click(button);
    page.click(button);
}
