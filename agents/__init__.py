"""Who acts: engines, prompt formats, learned policies, scripted experts."""
