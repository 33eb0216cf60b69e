//! Training rounds: feedback in the ledger becomes a candidate, and the gate decides whether it takes the live version's place.

pub mod gate;
