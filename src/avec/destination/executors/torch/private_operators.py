"""Which of torch's private operators, whose names begin with an underscore, a host may call: one sorted list.

Those that torch itself calls in the name of programs: what a CUDA build has kernels for, and what AOTAutograd's graphs
consist of. They are no part of torch's interface, and many trust their arguments, so no others are taken. Left out are
those that make or take sparse and nested tensors, of which a destination has none, and those of other devices.
Sources: native_functions.yaml, derivatives.yaml, and what PyTorch's OpInfo suite, `tests/apps` and torch.compile send.
"""

from __future__ import annotations

PRIVATE_OPERATORS = frozenset(
    """
    __ilshift__ __irshift__ __lshift__ __rshift__ _adaptive_avg_pool2d _adaptive_avg_pool2d_backward
    _adaptive_avg_pool3d _adaptive_avg_pool3d_backward _addmm_activation _aminmax
    _amp_foreach_non_finite_check_and_unscale _amp_foreach_non_finite_check_and_unscale_ _amp_update_scale
    _amp_update_scale_ _assert_async _assert_scalar _assert_tensor_metadata _batch_norm_no_update
    _batch_norm_with_update _batch_norm_with_update_functional _cdist_backward _cdist_forward _cholesky_solve_helper
    _chunk_cat _compute_linear_combination _conj _conj_physical _conv_depthwise2d _convert_indices_from_coo_to_csr
    _convert_indices_from_csr_to_coo _convert_weight_to_int4pack _cslt_compress _cslt_sparse_mm
    _cslt_sparse_mm_search _ctc_loss _ctc_loss_backward _cudnn_attention_backward _cudnn_attention_forward
    _cudnn_ctc_loss _cudnn_init_dropout_state _cudnn_rnn _cudnn_rnn_backward _cudnn_rnn_flatten_weight
    _cummax_helper _cummin_helper _deform_conv2d_backward _dirichlet_grad _efficient_attention_backward
    _efficient_attention_forward _embedding_bag _embedding_bag_backward _embedding_bag_dense_backward
    _embedding_bag_forward_only _embedding_bag_per_sample_weights_backward _euclidean_dist
    _fake_quantize_learnable_per_channel_affine _fake_quantize_learnable_per_channel_affine_backward
    _fake_quantize_learnable_per_tensor_affine _fake_quantize_learnable_per_tensor_affine_backward
    _fake_quantize_per_tensor_affine_cachemask_tensor_qparams _fft_c2c _fft_c2r _fft_r2c _fill_mem_eff_dropout_mask_
    _flash_attention_backward _flash_attention_forward _flash_attention_forward_no_dropout_inplace _foreach_abs
    _foreach_abs_ _foreach_acos _foreach_acos_ _foreach_add _foreach_add_ _foreach_addcdiv _foreach_addcdiv_
    _foreach_addcmul _foreach_addcmul_ _foreach_asin _foreach_asin_ _foreach_atan _foreach_atan_ _foreach_ceil
    _foreach_ceil_ _foreach_clamp_max _foreach_clamp_max_ _foreach_clamp_min _foreach_clamp_min_ _foreach_clone
    _foreach_copy _foreach_copy_ _foreach_cos _foreach_cos_ _foreach_cosh _foreach_cosh_ _foreach_div _foreach_div_
    _foreach_erf _foreach_erf_ _foreach_erfc _foreach_erfc_ _foreach_exp _foreach_exp_ _foreach_expm1
    _foreach_expm1_ _foreach_floor _foreach_floor_ _foreach_frac _foreach_frac_ _foreach_lerp _foreach_lerp_
    _foreach_lgamma _foreach_lgamma_ _foreach_log _foreach_log10 _foreach_log10_ _foreach_log1p _foreach_log1p_
    _foreach_log2 _foreach_log2_ _foreach_log_ _foreach_max _foreach_maximum _foreach_maximum_ _foreach_minimum
    _foreach_minimum_ _foreach_mul _foreach_mul_ _foreach_neg _foreach_neg_ _foreach_norm _foreach_pow _foreach_pow_
    _foreach_powsum _foreach_reciprocal _foreach_reciprocal_ _foreach_round _foreach_round_ _foreach_rsqrt
    _foreach_rsqrt_ _foreach_sigmoid _foreach_sigmoid_ _foreach_sign _foreach_sign_ _foreach_sin _foreach_sin_
    _foreach_sinh _foreach_sinh_ _foreach_sqrt _foreach_sqrt_ _foreach_sub _foreach_sub_ _foreach_tan _foreach_tan_
    _foreach_tanh _foreach_tanh_ _foreach_trunc _foreach_trunc_ _foreach_zero _foreach_zero_
    _functional_assert_async _functional_assert_scalar _fused_adagrad _fused_adagrad_ _fused_adam _fused_adam_
    _fused_adamw _fused_adamw_ _fused_dropout _fused_moving_avg_obs_fq_helper
    _fused_moving_avg_obs_fq_helper_functional _fused_rms_norm _fused_rms_norm_backward _fused_sgd _fused_sgd_
    _grouped_mm _index_put_impl _index_put_impl_ _int_mm _is_all_true _is_any_true _jagged_to_padded_dense_forward
    _linalg_check_errors _linalg_det _linalg_eigh _linalg_eigvals _linalg_slogdet _linalg_solve_ex _linalg_svd
    _local_scalar_dense _log_softmax _log_softmax_backward_data _logcumsumexp _masked_scale _masked_softmax
    _masked_softmax_backward _mixed_dtypes_linear _native_batch_norm_legit _native_batch_norm_legit_functional
    _native_batch_norm_legit_no_training _native_multi_head_attention _neg_view _padded_dense_to_jagged_forward
    _pdist_backward _pdist_forward _philox_key_fold_in _philox_key_split _philox_normal _philox_normal_
    _philox_uniform _philox_uniform_ _prelu_kernel _prelu_kernel_backward _ps_roi_align_backward
    _ps_roi_pool_backward _reshape_copy _roi_align_backward _roi_pool_backward _safe_softmax _sample_dirichlet
    _scaled_dot_product_cudnn_attention _scaled_dot_product_cudnn_attention_backward
    _scaled_dot_product_efficient_attention _scaled_dot_product_efficient_attention_backward
    _scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_backward _scaled_grouped_mm
    _scaled_grouped_mm_v2 _scaled_mm _scaled_mm_v2 _segment_reduce_backward _slow_conv2d_backward
    _slow_conv2d_forward _softmax _softmax_backward_data _sparse_semi_structured_addmm _sparse_semi_structured_apply
    _sparse_semi_structured_apply_dense _sparse_semi_structured_linear _sparse_semi_structured_mm
    _sparse_semi_structured_tile _stack _standard_gamma _standard_gamma_grad _thnn_fused_gru_cell
    _thnn_fused_gru_cell_backward _thnn_fused_lstm_cell _thnn_fused_lstm_cell_backward_impl _to_copy
    _to_sparse_semi_structured _transform_bias_rescale_qkv _transformer_encoder_layer_fwd _trilinear _unique
    _unique2 _unsafe_index _unsafe_index_put _unsafe_masked_index _unsafe_masked_index_put_accumulate _unsafe_view
    _upsample_bicubic2d_aa _upsample_bicubic2d_aa_backward _upsample_bilinear2d_aa _upsample_bilinear2d_aa_backward
    _upsample_nearest_exact1d _upsample_nearest_exact1d_backward _upsample_nearest_exact2d
    _upsample_nearest_exact2d_backward _upsample_nearest_exact3d _upsample_nearest_exact3d_backward
    _use_cudnn_ctc_loss _validate_compressed_sparse_indices _weight_int4pack_mm _weight_int8pack_mm
    _weight_norm_interface _weight_norm_interface_backward
    """.split()
)
