//! One integration binary: the parts of the server against the published model's numbers, and a server in this process on a real
//! port with a small random model, or with the demo model.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that cannot go on must not, and may say what it measured"
)]

mod app;
mod bad_input;
mod browser;
mod canary;
mod chat;
mod checkpoints;
mod crash;
mod demo;
mod describer;
mod engine;
mod engine_model;
mod feedback;
mod files;
mod floors;
mod full_disk;
mod gate;
mod gather;
mod golden;
mod gradients;
mod http;
mod hub;
mod images;
mod jobs;
mod kept_as;
mod layouts;
mod learn;
mod ledger;
mod liking;
mod loading;
mod log;
mod openapi;
mod page;
mod parity;
mod parity_network;
mod paths;
mod place;
mod round;
mod rounds;
mod saving;
mod sdk;
mod start;
mod swap;
mod trials;
