//! Tables of what BuildKit and moby's patternmatcher make of their own test cases, and what this crate adds.

mod check;
mod ignore;
mod instructions;
mod parser;
mod shell;
mod stages;
