#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| caisson_agent_fuzz::frames(data));
