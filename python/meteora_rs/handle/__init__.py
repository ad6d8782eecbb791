"""What users call, one concern a file; `handle.Handle` is made of them, and `meteora_rs.meteora.Meteora` of that."""
