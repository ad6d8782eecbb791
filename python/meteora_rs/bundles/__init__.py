"""The bundle: adapters with their gates in one folder, checked by hash.

meteora.json                     format version, config, bytes of the element in which its pool_rank was counted
                                 (4 where that is missing), shapes of the sites, adapters in order (those that rested
                                 in the host's memory last), hashes, aliases and groups (`names`)
gates.safetensors                "<adapter>/<site path>.gate" [in] float32, "<adapter>/<site path>.gate_bias" [1];
                                 a site whose row equals its input group's leader's is left out
statistics.safetensors           texts that the last fit kept for later adapters (`gates.kept`); may be missing
flow.safetensors                 the gate that weights whole layers (`gates.flow`), if one was set
adapters/<name>/                 a PEFT folder
"""
