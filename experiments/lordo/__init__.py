"""LoRDO beside local steps of AdamW; see README.md."""
