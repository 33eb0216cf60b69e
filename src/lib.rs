//! ULM Server: a unified multimodal model (Janus-Pro, ULM-R1) that draws and answers behind an OpenAI-style API.
//!
//! Floors, from the ground up; a file imports from its own folder and from lower floors only (`tests/it/floors.rs`):
//! 0 `domain` · 1 `hub`, `model`, `store`, `world` · 2 `critic`, `engine`, `kept`, `picture`, `trial` · 3 `reward` · 4 `api`, `follow`,
//! `train`, `watch` · 5 the rest.

pub mod api;
pub mod bench;
pub mod bench_ledger;
pub mod bench_ops;
pub mod bench_train;
pub mod commands;
pub mod config;
pub mod critic;
pub mod demo;
pub mod domain;
pub mod engine;
pub mod fetch;
pub mod follow;
pub mod hub;
pub mod kept;
pub mod learn;
pub mod log;
pub mod model;
pub mod models;
pub mod picture;
pub mod reward;
pub mod serve;
pub mod store;
pub mod teach;
pub mod telemetry;
pub mod train;
pub mod trial;
pub mod watch;
pub mod world;
