"""Clinical alignment: sessions, reports and records in one space by symmetric InfoNCE."""
