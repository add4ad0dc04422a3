"""Networks at other widths: the module itself with wider layers, or its recorded operations at other widths."""
