"""What calls beside a claimed shape are made of: which choices meet, how long, of which heads and scale."""
