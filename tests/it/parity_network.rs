//! The network computes what transformers computes: features, logits under forced tokens and greedy replies on both ways through the
//! decoder, and the image tokenizer in both directions.

use candle_core::{D, DType, Device, Tensor};
use ulm::domain::task::Draw;
use ulm::model::{Model, network::Chunk, policy};

use crate::golden::{self, NOTES, VARIANTS};
use crate::paths::{self, WAYS, values};

/// Largest difference allowed, in units of the largest golden number.
const TOLERANCE: f32 = 1e-4;

fn check(what: &str, ours: &Tensor, golden: &[f32]) {
    let distance = golden::distance(&values(ours), golden);
    eprintln!("{what}: {distance:.1e}");
    assert!(distance <= TOLERANCE, "{what}: {distance}");
}

/// As [`check`], of log-probabilities: they differ as logits do, and not in proportion to themselves.
fn close(what: &str, ours: &[f32], golden: &[f32], tolerance: f64) {
    assert_eq!(ours.len(), golden.len());
    let most = ours.iter().zip(golden).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
    eprintln!("{what}: {most:.1e} of {tolerance:.1e}");
    assert!(most <= tolerance, "{what}: {most}");
}

/// What differences of the logits themselves, within [`TOLERANCE`], may make of their log-probabilities.
fn allowed(logits: &Tensor) -> f64 {
    f64::from(TOLERANCE * values(logits).into_iter().map(f32::abs).fold(1.0, f32::max))
}

fn gold(variant: &str, name: &str) -> Vec<f32> {
    golden::floats(&format!("{variant}.{name}")).1
}

fn pixels(variant: &str, name: &str) -> Tensor {
    let (shape, numbers) = golden::floats(&format!("{variant}.{name}"));
    Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap()
}

#[test]
fn pictures_are_seen_alike() {
    for variant in VARIANTS {
        let model = paths::load(variant);
        let features = model.network().vision_features(&pixels(variant, "pixels.0")).unwrap();
        check(&format!("{variant} vision"), &features, &gold(variant, "vision"));
        let (question, _) = golden::conversations(variant).remove(0);
        let prompt = model.prompter().answer(&question).unwrap();
        check(&format!("{variant} aligner"), &model.see(&prompt.pictures).unwrap(), &gold(variant, "aligner"));
    }
}

#[test]
fn conversations_have_the_same_next_token_logits() {
    for variant in VARIANTS {
        let model = paths::load(variant);
        for (index, (question, _)) in golden::conversations(variant).iter().enumerate() {
            let prompt = model.prompter().answer(question).unwrap();
            for (way, run) in WAYS {
                let hidden = run(&model, &[paths::chunks(&model, &prompt)], &[0], paths::text);
                let logits = model.text_logits(&hidden[0]).unwrap();
                check(
                    &format!("{variant} text logits {index}, {way}"),
                    &logits,
                    &gold(variant, &format!("text_logits.{index}")),
                );
            }
        }
    }
}

#[test]
fn greedy_answers_are_the_same_token_for_token() {
    for variant in VARIANTS {
        let (model, note) = (paths::load(variant), &NOTES[variant]["answer"]);
        let golden_ids = golden::numbers(&note["ids"]);
        let (question, _) = golden::conversations(variant).remove(0);
        let prompt = model.prompter().answer(&question).unwrap();
        let tokens = model.prompter().text_tokens();
        // What we would say at each step, each step after what we said before it.
        let mut said = Vec::new();
        while said.len() < golden_ids.len() {
            let reply = [&said[..], &[0]].concat();
            let hidden = paths::through_slots(&model, &[paths::chunks(&model, &prompt)], &reply, paths::text);
            let last = model.text_logits(&hidden[0].narrow(0, said.len(), 1).unwrap()).unwrap();
            said.extend(last.narrow(1, 0, tokens).unwrap().argmax(D::Minus1).unwrap().to_vec1::<u32>().unwrap());
        }
        assert_eq!(said, golden_ids, "{variant}");
        assert_eq!(model.prompter().decode(&said), note["text"].as_str().unwrap());

        let mut seen = Vec::new();
        for (way, run) in WAYS {
            let hidden = run(&model, &[paths::chunks(&model, &prompt)], &said, paths::text);
            let logits = model.text_logits(&hidden[0]).unwrap();
            assert_eq!(
                logits.narrow(1, 0, tokens).unwrap().argmax(D::Minus1).unwrap().to_vec1::<u32>().unwrap(),
                said,
                "{way}"
            );
            check(
                &format!("{variant} answer logits, {way}"),
                &logits.narrow(0, 0, 4).unwrap(),
                &gold(variant, "answer_logits"),
            );
            let whole = policy::log_prob_of(&logits, &said, 1.0).unwrap();
            let golden = gold(variant, "answer_log_probs_whole_head");
            close(&format!("{variant} answer log-probabilities, {way}"), &values(&whole), &golden, TOLERANCE.into());
            let real = policy::log_prob_of(&logits.narrow(1, 0, tokens).unwrap(), &said, 1.0).unwrap();
            let golden = gold(variant, "answer_log_probs");
            close(
                &format!("{variant} answer log-probabilities of tokens, {way}"),
                &values(&real),
                &golden,
                TOLERANCE.into(),
            );
            seen.push(values(&real));
        }
        // What serving reports is what training differentiates.
        close(&format!("{variant} answer, slots and forward"), &seen[0], &seen[1], TOLERANCE.into());
    }
}

/// Conditional, unconditional and guided logits `[steps, codebook]` while a picture of `codes` is drawn.
fn drawing(model: &Model, run: paths::Way, prompt: &str, codes: &[u32], guidance: f64) -> [Tensor; 3] {
    let prompt = model.prompter().draw(&Draw { prompt: prompt.to_owned() }).unwrap();
    let rows = [vec![Chunk::Text(&prompt.conditional)], vec![Chunk::Text(&prompt.unconditional)]];
    let hidden = run(model, &rows, codes, paths::codes);
    let (c, u) = (model.image_logits(&hidden[0]).unwrap(), model.image_logits(&hidden[1]).unwrap());
    let guided = policy::guide(&c, &u, guidance).unwrap();
    [c, u, guided]
}

#[test]
fn image_logits_are_the_same_under_forced_tokens() {
    for variant in VARIANTS {
        let (model, note) = (paths::load(variant), &NOTES[variant]);
        let (codes, steps) = (golden::numbers(&note["forced"]["codes"]), golden::numbers(&note["forced"]["steps"]));
        let (prompt, guidance) =
            (note["drawings"][0]["prompt"].as_str().unwrap(), note["forced"]["guidance"].as_f64().unwrap());
        let steps = Tensor::new(steps, &Device::Cpu).unwrap();
        for (way, run) in WAYS {
            let logits = drawing(&model, run, prompt, &codes, guidance);
            for (name, logits) in ["conditional", "unconditional", "guided"].iter().zip(logits) {
                let at = logits.index_select(&steps, 0).unwrap();
                check(&format!("{variant} forced {name}, {way}"), &at, &gold(variant, &format!("forced.{name}")));
            }
        }
    }
}

#[test]
fn greedy_pictures_are_the_same_token_for_token() {
    for variant in VARIANTS {
        let (model, note) = (paths::load(variant), &NOTES[variant]);
        let golden_codes = golden::numbers(&note["greedy"]["codes"]);
        let (prompt, guidance) =
            (note["drawings"][0]["prompt"].as_str().unwrap(), note["greedy"]["guidance"].as_f64().unwrap());
        let mut drawn = Vec::new();
        while drawn.len() < golden_codes.len() {
            let [_, _, guided] = drawing(&model, paths::through_slots, prompt, &[&drawn[..], &[0]].concat(), guidance);
            let last = guided.narrow(0, drawn.len(), 1).unwrap();
            drawn.extend(last.argmax(D::Minus1).unwrap().to_vec1::<u32>().unwrap());
        }
        assert_eq!(drawn, golden_codes, "{variant}");

        let mut seen = Vec::new();
        for (way, run) in WAYS {
            let [conditional, _, guided] = drawing(&model, run, prompt, &drawn, guidance);
            assert_eq!(guided.argmax(D::Minus1).unwrap().to_vec1::<u32>().unwrap(), drawn, "{variant} {way}");
            let names = ["greedy_log_probs", "greedy_conditional_log_probs"];
            let log_probs = names.iter().zip([&guided, &conditional]).map(|(name, logits)| {
                let ours = values(&policy::log_prob_of(logits, &drawn, 1.0).unwrap());
                close(&format!("{variant} {name}, {way}"), &ours, &gold(variant, name), allowed(logits));
                ours
            });
            seen.push(log_probs.collect::<Vec<_>>());
        }
        for (served, trained) in seen[0].iter().zip(&seen[1]) {
            close(&format!("{variant} picture, slots and forward"), served, trained, TOLERANCE.into());
        }
    }
}

#[test]
fn pictures_become_the_same_codes() {
    for variant in VARIANTS {
        let (model, note) = (paths::load(variant), &NOTES[variant]["vq"]);
        let pictures = Tensor::cat(&[pixels(variant, "pixels.0"), pixels(variant, "pixels.1")], 0).unwrap();
        let pictures = pictures.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap();
        let latents = pixels(variant, "latents").permute((0, 2, 3, 1)).unwrap().contiguous().unwrap();
        let features = model.network().vq().features(&pictures).unwrap();
        check(&format!("{variant} tokenizer features"), &features, &values(&ulm::model::vq::unit(&latents).unwrap()));
        let golden_ids: Vec<u32> = note["encoded"].as_array().unwrap().iter().flat_map(golden::numbers).collect();
        assert!(note["least_gap"].as_f64().unwrap() > f64::from(TOLERANCE));
        assert_eq!(model.network().vq().encode(&pictures).unwrap(), golden_ids, "{variant}");
    }
}

#[test]
fn codes_become_the_same_picture() {
    for variant in VARIANTS {
        let model = paths::load(variant);
        let grids: Vec<Vec<u32>> =
            NOTES[variant]["vq"]["decoded"].as_array().unwrap().iter().map(golden::numbers).collect();
        let floats = pixels(variant, "decoded").permute((0, 2, 3, 1)).unwrap().contiguous().unwrap();
        let painted = model.network().paint(&grids.concat()).unwrap();
        assert_eq!((painted.dims(), painted.dtype()), (floats.dims(), DType::F32));
        check(&format!("{variant} painted"), &painted, &values(&floats));

        let (_, golden_bytes) = golden::bytes(&format!("{variant}.decoded_bytes"));
        let bytes: Vec<u8> = model.paint(&grids).unwrap().iter().flat_map(|picture| picture.rgb().to_vec()).collect();
        assert_eq!(bytes.len(), golden_bytes.len());
        // Levels are cut, so one that lands on a whole number may fall on either side of it.
        let level = |float: f32| (float + 1.0) / 2.0 * 255.0;
        for ((ours, golden), float) in bytes.iter().zip(&golden_bytes).zip(values(&floats)) {
            let near = (level(float) - level(float).round()).abs() < 0.05;
            assert!(
                ours == golden || near && ours.abs_diff(*golden) == 1,
                "{variant}: {ours}, not {golden} of {float}"
            );
        }
    }
}
