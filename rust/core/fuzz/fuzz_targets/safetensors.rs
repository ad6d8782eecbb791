#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    meteora_core_fuzz::safetensors(bytes);
});
