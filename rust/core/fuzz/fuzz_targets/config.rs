#![no_main]
libfuzzer_sys::fuzz_target!(|text: &str| {
    meteora_core_fuzz::config(text);
});
