"""What an attached model can do, one concern a file; `meteora_rs.meteora.Meteora` is made of them."""
