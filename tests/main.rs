//! Whole-system tests: the real binary, on real files, as a user would run it.
#![cfg(test)]

mod agent;
mod backtest;
mod books;
mod chaos;
mod command_line;
mod commerce;
mod compute_sim;
mod crash;
mod demo;
mod documentation;
mod driven;
mod explain;
mod feed;
mod full_disk;
mod http;
mod keys;
mod market;
mod production;
mod quota;
mod replay;
mod scenarios;
mod support;
mod telemetry;
mod webhooks;
